new_task <- function() {
  root <- tempfile()
  id <- "0123456789abcdef0123456789abcdef"
  dir.create(task_path(root, id), recursive = TRUE)
  saveRDS(list(time = Sys.time()), task_path(root, id, "data"))
  list(root = root, id = id)
}


test_that("Slurm's states are told in hipercow's words", {
  said <- vapply(
    c("PENDING", "REQUEUE_HOLD", "RUNNING", "COMPLETING", "SUSPENDED",
      "COMPLETED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "UNKNOWN"),
    function(state) job_status(list(state = state)), "")
  expect_equal(unname(said),
               c("submitted", "submitted", "running", "running", "running",
                 "success", "cancelled", "failure", "failure", "failure"))
  expect_equal(job_status(NULL), "failure")
})


test_that("what the task wrote itself is the truth", {
  task <- new_task()
  file.create(task_path(task$root, task$id, "status-failure"))
  job <- list(job_id = 7, state = "COMPLETED")
  expect_equal(task_status_by_job(task$id, job, task$root), "failure")
  expect_false(file.exists(task_path(task$root, task$id, "result")))
})


test_that("a killed task has everything that hipercow reads", {
  task <- new_task()
  job <- list(job_id = 7, state = "TIMEOUT", time_limit_min = 5L,
              end_time = "2026-03-01T12:00:00Z", nodes = list("c1"),
              start_time = "2026-03-01T11:55:00+00:00")
  expect_equal(task_status_by_job(task$id, job, task$root), "failure")
  info <- readRDS(task_path(task$root, task$id, "info"))
  expect_equal(info$status, "failure")
  expect_equal(as.numeric(info$times[["finished"]] - info$times[["started"]],
                          units = "mins"), 5)
  sentence <- "Slurm job 7 ended as TIMEOUT: it reached its time limit of 5 min"
  expect_equal(conditionMessage(readRDS(task_path(task$root, task$id,
                                                  "result"))), sentence)
  expect_equal(readLines(task_path(task$root, task$id, "log")), sentence)
})


test_that("a success may be seen late on the share, but not for ever", {
  task <- new_task()
  job <- function(ago) {
    list(job_id = 7, state = "COMPLETED",
         end_time = format(Sys.time() - ago, "%Y-%m-%dT%H:%M:%SZ", tz = "UTC"))
  }
  expect_equal(task_status_by_job(task$id, job(10), task$root), "running")
  expect_equal(task_status_by_job(task$id, job(100), task$root), "failure")
})


test_that("a job that nobody knows any more is not waited for", {
  task <- new_task()
  expect_equal(task_status_by_job(task$id, NULL, task$root), "failure")
  expect_match(readLines(task_path(task$root, task$id, "log")), "no longer knows")
})
