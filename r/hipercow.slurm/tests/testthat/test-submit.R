test_that("resources are said in the API's words", {
  expect_equal(job_options(list(cores = 1L, exclusive = FALSE, queue = "main")),
               list(partition = "main"))
  expect_equal(job_options(list(cores = 4L)),
               list(tasks = 1, cpus_per_task = 4L))
  expect_equal(job_options(list(cores = Inf)), list(nodes = 1, exclusive = TRUE))
  expect_equal(
    job_options(list(cores = 1, exclusive = TRUE, memory_per_node = 2,
                     memory_per_process = 3, max_runtime = 90,
                     priority = "low", requested_nodes = "c2")),
    list(exclusive = TRUE, memory_mb = 3000, time_limit_min = 90L, nice = 100,
         nodelist = "c2"))
  expect_error(job_options(list(cores = 1, requested_nodes = c("c1", "c2"))),
               "one of 2 nodes")
})


test_that("a task is held for minutes, or until a time", {
  now <- as.POSIXct("2026-03-01 12:00:00", tz = "UTC")
  expect_equal(begin_time(90, now), "2026-03-01T13:30:00Z")
  later <- as.POSIXlt("2026-03-01 12:00:00", tz = "America/New_York")
  expect_equal(begin_time(later), "2026-03-01T17:00:00Z")
})


test_that("scripts are shell whatever the folder is called", {
  config <- list(path = "/mnt/it's; touch x", path_lib = "hipercow/lib",
                 rscript = "/opt/R 4/bin/Rscript", r_libs = "/opt/lib",
                 setup = "module load hiredis", redis_url = "10.0.0.1")
  for (script in list(task_script(strrep("0", 32), config),
                      provision_script("hipercow/provision/x", config))) {
    path <- tempfile()
    writeLines(script, path)
    expect_equal(system2("bash", c("-n", path)), 0)
    expect_true("module load hiredis" %in% script)
  }
})


test_that("the R version on the cluster is the closest that is not older", {
  valid <- c("4.2.2", "4.4.1", "4.3.3")
  expect_equal(select_r_version(NULL, valid, numeric_version("4.3.0")), "4.3.3")
  expect_equal(select_r_version(NULL, valid, numeric_version("4.5.0")), "4.4.1")
  expect_equal(select_r_version("4.2.2", valid), "4.2.2")
  expect_error(select_r_version("3.6.0", valid), "Unsupported R version: 3.6.0")
  expect_error(select_r_version(NULL, NULL), "has named no R")
})


test_that("the cluster's answers become hipercow's resources", {
  partitions <- list(list(name = "long", is_default = FALSE),
                     list(name = "main", is_default = TRUE))
  nodes <- list(list(name = "c1", cpus = 4L, memory_mb = 8000L),
                list(name = "c2", cpus = 64L, memory_mb = 2000L))
  found <- cluster_resources(partitions, nodes, list(build_queue = "long"))
  expect_equal(found$default_queue, "main")
  expect_equal(found[c("max_cores", "max_ram", "build_queue", "test_queue")],
               list(max_cores = 64, max_ram = 8, build_queue = "long",
                    test_queue = "main"))
  expect_error(cluster_resources(list(), nodes, list()), "no queue for you")
})
