# A task's status is in its files, as long as it could write them. What Slurm
# ended (time, memory, cancellation) could not: then its job tells.
WAITING <- c("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD",
             "RESV_DEL_HOLD", "SPECIAL_EXIT")
ENDED <- c("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL",
           "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "PREEMPTED", "REVOKED",
           "UNKNOWN")
# A success on a network file system may take this long to be seen here.
GRACE_S <- 60
ONE_BY_ONE <- 3


job_ids <- function(id, path_root) {
  vapply(task_path(path_root, id, JOB_ID), function(path) {
    if (file.exists(path)) as.integer(readLines(path)[1]) else NA_integer_
  }, integer(1), USE.NAMES = FALSE)
}


# Jobs by number, as a list; NULL for those that nobody knows any more.
fetch_jobs <- function(session, numbers) {
  wanted <- unique(numbers[!is.na(numbers)])
  found <- if (length(wanted) > ONE_BY_ONE) {
    fetch_all(session)
  } else {
    lapply(wanted, function(number) {
      tryCatch(
        ask(session, "GET", paste0("/v1/jobs/", number)),
        "hipercow_slurm_no-such-job" = function(e) list(job_id = NA))
    })
  }
  known <- vapply(found, function(job) as.integer(job$job_id), integer(1))
  lapply(numbers, function(number) {
    at <- match(number, known)
    if (is.na(number) || is.na(at)) NULL else found[[at]]
  })
}


fetch_all <- function(session) {
  found <- list()
  cursor <- NULL
  repeat {
    query <- Filter(Negate(is.null), list(forgotten = "true", cursor = cursor))
    page <- ask(session, "GET", "/v1/jobs", query = query)
    found <- c(found, page$jobs)
    cursor <- page$next_cursor
    if (is.null(cursor)) {
      return(found)
    }
  }
}


# A job's state in hipercow's words, by itself: whether a task of a COMPLETED
# job succeeded, its files know better.
job_status <- function(job) {
  if (is.null(job)) {
    return("failure")
  }
  if (!(job$state %in% ENDED)) {
    return(if (job$state %in% WAITING) "submitted" else "running")
  }
  switch(job$state, COMPLETED = "success", CANCELLED = "cancelled", "failure")
}


job_sentence <- function(job) {
  if (is.null(job)) {
    return("Slurm no longer knows the task's job; how it ended is not known")
  }
  why <- switch(
    job$state,
    TIMEOUT = sprintf("it reached its time limit of %s min",
                      job$time_limit_min %||% "?"),
    OUT_OF_MEMORY = "it used more memory than it had asked for",
    CANCELLED = "it was cancelled",
    NODE_FAIL = "its node failed",
    PREEMPTED = "another job took its place",
    UNKNOWN = "Slurm no longer knows how it ended",
    COMPLETED = "it ended without writing the task's result",
    if (is.null(job$signal)) "it failed"
    else paste("it was killed by signal", job$signal))
  sprintf("Slurm job %d ended as %s: %s", job$job_id, job$state, why)
}


# The last status in a task's own files; NA: none yet.
file_status <- function(id, path_root) {
  for (status in TERMINAL) {
    if (file.exists(task_path(path_root, id, paste0("status-", status)))) {
      return(status)
    }
  }
  NA_character_
}


# One task's status now, by its job, which is NULL if nobody knows it.
task_status_by_job <- function(id, job, path_root) {
  status <- job_status(job)
  if (!(status %in% TERMINAL)) {
    return(status)
  }
  # Looked at after the job has ended: what the task wrote itself is the truth.
  own <- file_status(id, path_root)
  if (!is.na(own)) {
    return(own)
  }
  if (status == "success") {
    ended <- parse_time(job$end_time)
    if (!is.na(ended) && difftime(Sys.time(), ended, units = "secs") < GRACE_S) {
      return("running")
    }
    status <- "failure"
  }
  explain(id, status, job, path_root)
  status
}


# hipercow reads `info` and `result` of every task that has ended; a task that
# was killed wrote neither. Its log's last line says why.
explain <- function(id, status, job, path_root) {
  path <- task_path(path_root, id)
  sentence <- job_sentence(job)
  data <- tryCatch(readRDS(file.path(path, "data")), error = function(e) NULL)
  times <- c(created = data$time %||% as.POSIXct(NA),
             started = time_started(job),
             finished = if (is.null(job$end_time)) Sys.time()
                        else parse_time(job$end_time))
  save_if_missing(list(status = status, times = times, cpu = NULL,
                       memory = NULL), file.path(path, "info"))
  save_if_missing(simpleError(sentence), file.path(path, "result"))
  cat(sentence, "\n", file = file.path(path, "log"), append = TRUE, sep = "")
}


save_if_missing <- function(object, path) {
  if (!file.exists(path)) {
    saveRDS(object, path)
  }
}


# A job that never started has Slurm's forecast, or the time of its end.
time_started <- function(job) {
  if (is.null(job$nodes) || length(job$nodes) == 0) {
    return(as.POSIXct(NA))
  }
  parse_time(job$start_time)
}


slurm_status <- function(id, config, path_root) {
  jobs <- fetch_jobs(connect(config), job_ids(id, path_root))
  vcapply(seq_along(id), function(i) {
    task_status_by_job(id[[i]], jobs[[i]], path_root)
  })
}


slurm_info <- function(id, config, path_root) {
  job <- fetch_jobs(connect(config), job_ids(id, path_root))[[1]]
  list(status = task_status_by_job(id, job, path_root),
       time_started = time_started(job))
}


slurm_log <- function(id, outer, config, path_root) {
  read_if_exists(task_path(path_root, id, if (outer) OUTER_LOG else "log"))
}


slurm_result <- function(id, config, path_root) {
  if (!file.exists(task_path(path_root, id, "result"))) {
    job <- fetch_jobs(connect(config), job_ids(id, path_root))[[1]]
    status <- file_status(id, path_root)
    explain(id, if (is.na(status)) "failure" else status, job, path_root)
  }
}


# A vector of tasks in one request. Slurm does not mind cancelling what has
# ended; hipercow does.
slurm_cancel <- function(id, config, path_root) {
  session <- connect(config)
  numbers <- job_ids(id, path_root)
  jobs <- fetch_jobs(session, numbers)
  live <- !vlapply(jobs, function(job) job_status(job) %in% TERMINAL)
  cancelled <- rep(FALSE, length(id))
  if (any(live)) {
    query <- list(job_id = paste(numbers[live], collapse = ","))
    results <- ask(session, "DELETE", "/v1/jobs", query = query)$results
    cancelled[live] <- vlapply(results, function(one) one$status < 300)
  }
  list(cancelled = cancelled,
       time_started = do.call(c, lapply(jobs, time_started)))
}
