# Runs at the sandbox's laptop, in an empty folder of a project on the share;
# test_hipercow_r.py starts it. Uses of hipercow only what the real one has.
library(hipercow)
library(hipercow.slurm)
options(hipercow.progress = FALSE)

URL <- "https://head.sandbox.test:8443"
hipercow_init(".")


wait_for <- function(id, wanted, seconds = 60) {
  end <- Sys.time() + seconds
  repeat {
    status <- task_status(id)
    if (all(status %in% wanted)) {
      return(status)
    }
    if (Sys.time() > end) {
      stop("status of ", id, " is ", status, "; outer log: ",
           paste(task_log_value(id, outer = TRUE), collapse = "\n"))
    }
    Sys.sleep(0.5)
  }
}


ended <- function(id) {
  wait_for(id, c("success", "failure", "cancelled"))
}


# The task's own process runs: what is done to it now is done to a running one.
began <- function(id) {
  path <- file.path("hipercow", "tasks", substr(id, 1, 2), substring(id, 3),
                    "status-running")
  end <- Sys.time() + 60
  while (!file.exists(path)) {
    stopifnot(Sys.time() < end)
    Sys.sleep(0.2)
  }
}


test_that("nothing goes before a login, and a wrong password says so", {
  expect_error(hipercow_configure("slurm"), "not logged in")
  expect_error(slurm_login(URL, "alice", "wrong", "/etc/hipercow-slurm/ca.pem"),
               class = "hipercow_slurm_login-failed")
  slurm_login(URL, "alice", Sys.getenv("TEST_PASSWORD"),
              "/etc/hipercow-slurm/ca.pem")
  path <- hipercow.slurm:::session_path()
  expect_equal(format(file.info(path)$mode), "600")
  expect_false(any(grepl(Sys.getenv("TEST_PASSWORD"), readLines(path),
                         fixed = TRUE)))
})


test_that("a root on the share is found on the nodes, another one is not", {
  expect_message(hipercow_configure("slurm"), "hipercow to use 'slurm'")
  owd <- setwd(tempdir())
  on.exit(setwd(owd))
  dir.create("elsewhere")
  setwd("elsewhere")
  hipercow_init(".")
  expect_error(hipercow_configure("slurm"), "Can't map local directory")
})


test_that("the cluster is as Slurm has it", {
  info <- hipercow_cluster_info()
  expect_equal(info$resources$nodes, c("c1", "c2"))
  expect_equal(info$resources[c("max_cores", "max_ram", "default_queue")],
               list(max_cores = 4, max_ram = 8, default_queue = "main"))
  expect_true(numeric_version("4.2.2") %in% info$r_versions)
  expect_error(
    task_create_expr(sqrt(1), resources = hipercow_resources(cores = 5)),
    "5 is too many cores for this cluster")
})


test_that("a task runs on a node as its owner and its result comes back", {
  id <- task_create_expr({
    message("working")
    unname(Sys.info()[c("nodename", "effective_user")])
  })
  expect_equal(ended(id), "success")
  expect_equal(task_result(id), c("c1", "alice"))
  expect_true("working" %in% task_log_value(id))
  expect_true("Task completed successfully!" %in%
                task_log_value(id, outer = TRUE))
  times <- task_info(id)$times
  expect_true(times[["finished"]] >= times[["started"]])
})


test_that("an error in R is a failed task, with the error as result", {
  id <- task_create_expr(stop("oh no"))
  expect_equal(ended(id), "failure")
  expect_match(conditionMessage(task_result(id)), "oh no")
})


test_that("resources reach Slurm", {
  resources <- hipercow_resources(cores = 3, max_runtime = 2,
                                  memory_per_process = "1G", priority = "low",
                                  requested_nodes = "c2", queue = "main")
  id <- task_create_expr(
    c(Sys.getenv("HIPERCOW_CORES"), Sys.info()[["nodename"]],
      system("scontrol -o show job $SLURM_JOB_ID", intern = TRUE)),
    resources = resources)
  expect_equal(ended(id), "success")
  result <- task_result(id)
  expect_equal(result[1:2], c("3", "c2"))
  expect_match(result[3], "TimeLimit=00:02:00")
  expect_match(result[3], "MinMemoryNode=1000M")
  expect_match(result[3], "Nice=100")
  whole <- task_create_expr(Sys.getenv("HIPERCOW_CORES"),
                            resources = hipercow_resources(cores = Inf))
  expect_equal(ended(whole), "success")
  expect_equal(task_result(whole), "4")
})


test_that("tasks are cancelled, running and waiting ones in one call", {
  running <- task_create_expr(Sys.sleep(600))
  began(running)
  waiting <- task_create_expr(
    sqrt(1), resources = hipercow_resources(hold_until = 60))
  done <- task_create_expr(sqrt(4))
  ended(done)
  expect_equal(task_status(c(running, waiting)), c("running", "submitted"))
  expect_equal(task_cancel(c(running, waiting, done)), c(TRUE, TRUE, FALSE))
  expect_equal(task_status(c(running, waiting)), c("cancelled", "cancelled"))
  expect_false(is.na(task_info(running)$times[["started"]]))
  expect_true(is.na(task_info(waiting)$times[["started"]]))
})


test_that("a task that Slurm or the kernel kills fails, and says why", {
  killed <- task_create_expr(system("kill -KILL 0"))
  expect_equal(ended(killed), "failure")
  expect_match(conditionMessage(task_result(killed)), "killed by signal 9")
  expect_match(tail(task_log_value(killed), 1), "Slurm job .* ended as FAILED")
  expect_equal(task_info(killed)$status, "failure")
  cancelled <- task_create_expr(Sys.sleep(600))
  began(cancelled)
  number <- hipercow.slurm:::job_ids(cancelled, getwd())
  hipercow.slurm:::ask(hipercow.slurm:::connect(), "DELETE",
                       paste0("/v1/jobs/", number))
  expect_equal(ended(cancelled), "cancelled")
  late <- task_create_expr(Sys.sleep(600),
                           resources = hipercow_resources(max_runtime = 1))
  expect_equal(wait_for(late, "failure", 150), "failure")
  expect_match(conditionMessage(task_result(late)), "TIMEOUT.*limit of 1 min")
})


test_that("many tasks are asked about in one go", {
  ids <- vapply(1:5, function(i) task_create_expr(sqrt(16)), "")
  expect_equal(ended(ids), rep("success", 5))
})


test_that("secrets travel encrypted and arrive", {
  id <- task_create_expr(Sys.getenv("MY_SECRET"),
                         envvars = hipercow_envvars(MY_SECRET = "moo-secret",
                                                    secret = TRUE))
  data <- file.path("hipercow", "tasks", substr(id, 1, 2), substring(id, 3),
                    "data")
  expect_false(any(grepl("moo-secret", format(readRDS(data)))))
  expect_equal(ended(id), "success")
  expect_equal(task_result(id), "moo-secret")
  key <- hipercow.slurm:::slurm_keypair(
    readRDS(Sys.glob("hipercow/config/*/slurm.rds")), getwd())
  here <- file.path("hipercow", "slurm", "keys", basename(key$key))
  expect_equal(format(file.info(here)$mode), "600")
})


test_that("packages are installed on the cluster, and failure is told", {
  writeLines(c(
    "message(\"installing on \", Sys.info()[[\"nodename\"]])",
    "writeLines(\"moo\", file.path(.libPaths()[1], \"marker\"))"),
    "provision.R")
  said <- capture.output(hipercow_provision("script"))
  expect_true(any(grepl("installing on c[12]", said)))
  expect_equal(nrow(hipercow_provision_list()), 1)
  id <- task_create_expr(readLines(file.path(.libPaths()[1], "marker")))
  expect_equal(ended(id), "success")
  expect_equal(task_result(id), "moo")
  writeLines("stop(\"no such package\")", "provision.R")
  expect_error(
    expect_output(hipercow_provision("script"), "no such package"),
    "Installation failed")
})


test_that("hello says moo", {
  expect_equal(suppressMessages(hipercow_hello()), "Moo")
})


test_that("after logging out there is a sentence, not a riddle", {
  slurm_logout()
  expect_error(task_create_expr(sqrt(1)), "not logged in")
})
