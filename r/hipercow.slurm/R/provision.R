# Installing packages is a job that runs conan2's script on a node, because
# that is where they must work.
slurm_provision_run <- function(args, check_running_tasks, config, path_root) {
  show_log <- args$show_log %||% TRUE
  poll <- args$poll %||% 1
  args$show_log <- args$poll <- NULL
  session <- connect(config)
  if (check_running_tasks) {
    warn_of_running_tasks(session, path_root)
  }
  name <- paste0("conan-", openssl::sha1(paste(Sys.time(), Sys.getpid())))
  folder <- file.path("hipercow", "provision", name)
  conan <- conan_config(args, config, path_root)
  conan2_function("conan_write")(conan, file.path(path_root, folder, "conan.R"))
  queue <- slurm_cluster_info(config, path_root)$resources$build_queue
  body <- list(
    script = paste(provision_script(folder, config), collapse = "\n"),
    name = name, working_directory = config$path, partition = queue,
    output = gsub("%", "%%", file.path(config$path, folder, OUTER_LOG),
                  fixed = TRUE),
    ignore_directives = TRUE)
  job <- ask(session, "POST", "/v1/jobs", body = body, key = name)
  cli::cli_alert_info("Installing in Slurm job {job$job_id}")
  watch <- file.path(path_root, folder, "log")
  job <- follow(session, job, if (show_log) watch, poll)
  if (job_status(job) != "success") {
    cli::cli_abort(c("Installation failed", x = job_sentence(job),
                     i = "Its log: '{watch}'"), call = NULL)
  }
  cli::cli_alert_success("Installation script finished successfully")
  invisible(job)
}


# Until the job's end, printing the new lines of `path` (NULL: none).
follow <- function(session, job, path, poll) {
  shown <- 0
  repeat {
    job <- ask(session, "GET", paste0("/v1/jobs/", job$job_id))
    lines <- if (!is.null(path)) read_if_exists(path)
    if (length(lines) > shown) {
      cat(lines[seq(shown + 1, length(lines))], sep = "\n", file = stdout())
      cat("\n")
      shown <- length(lines)
    }
    if (job_status(job) %in% TERMINAL) {
      return(job)
    }
    Sys.sleep(poll)
  }
}


warn_of_running_tasks <- function(session, path_root) {
  jobs <- ask(session, "GET", "/v1/jobs",
              query = list(state = "RUNNING,PENDING"))$jobs
  names <- vcapply(jobs, function(job) job$name)
  names <- names[grepl("^[[:xdigit:]]{32}$", names)]
  n <- sum(file.exists(task_path(path_root, names)))
  if (n > 0) {
    cli::cli_alert_warning(
      "You have {n} task{?s} queued or running, whose packages may change now")
  }
}


provision_script <- function(folder, config) {
  c(script_begin(config, config$r_libs),
    sprintf("%s %s/conan.R > %s/log 2>&1", shQuote(config$rscript, "sh"),
            shQuote(folder, "sh"), shQuote(folder, "sh")),
    "ended=$?",
    "[ $ended -eq 0 ] || echo \"Error running conan: R ended with $ended\"",
    "exit $ended",
    "")
}


slurm_provision_list <- function(args, config, path_root) {
  hash <- if (!is.null(args)) conan_config(args, config, path_root)$hash
  conan2_function("conan_list")(file.path(path_root, config$path_lib), hash)
}


slurm_provision_compare <- function(curr, prev, config, path_root) {
  conan2_function("conan_compare")(file.path(path_root, config$path_lib),
                                   curr, prev)
}


conan_config <- function(args, config, path_root) {
  more <- list(path = path_root, path_lib = config$path_lib,
               path_bootstrap = config$r_libs %||% "")
  do.call(conan2_function("conan_configure"), c(args, more))
}


# hipercow makes sure of the package before it calls us.
conan2_function <- function(name) {
  getExportedValue("conan2", name)
}
