# Roots, configuration and drivers: as far as a driver can tell, as in hipercow.
cache <- new.env(parent = emptyenv())


hipercow_init <- function(root = ".") {
  dir.create(file.path(root, "hipercow"), showWarnings = FALSE)
  invisible(find_root(root))
}


find_root <- function(root = NULL) {
  path <- normalizePath(if (is.null(root)) getwd() else root)
  while (!dir.exists(file.path(path, "hipercow"))) {
    if (dirname(path) == path) {
      cli::cli_abort("Did not find existing hipercow root")
    }
    path <- dirname(path)
  }
  path
}


config_path <- function(root, driver) {
  file.path(root, "hipercow", "config", Sys.info()[["nodename"]],
            paste0(driver, ".rds"))
}


# The driver comes out of the cache, or it is unknown.
load_driver <- function(name) {
  if (Sys.getenv("HIPERCOW_NO_DRIVERS", "0") == "1") {
    stop("Trying to load a driver from code that should not do so")
  }
  driver <- cache$drivers[[name]]
  if (is.null(driver)) {
    cli::cli_abort("Invalid driver '{name}'")
  }
  stopifnot(inherits(driver, "hipercow_driver"))
  driver
}


# One driver per root is enough here.
prepare <- function(root) {
  files <- dir(dirname(config_path(root, "x")), full.names = TRUE)
  name <- sub("\\.rds$", "", basename(files))
  stopifnot(length(files) == 1)
  list(name = name, driver = load_driver(name), config = readRDS(files))
}


hipercow_configure <- function(driver, ..., root = NULL) {
  root <- find_root(root)
  loaded <- load_driver(driver)
  owd <- setwd(root)
  on.exit(setwd(owd))
  config <- loaded$configure(...)
  path <- config_path(root, driver)
  dir.create(dirname(path), showWarnings = FALSE, recursive = TRUE)
  saveRDS(config, path)
  cli::cli_alert_success("Configured hipercow to use '{driver}'")
}


hipercow_cluster_info <- function(driver = NULL, root = NULL) {
  root <- find_root(root)
  dat <- prepare(root)
  dat$driver$cluster_info(dat$config, root)
}


hipercow_resources <- function(cores = 1L, exclusive = FALSE,
                               max_runtime = NULL, hold_until = NULL,
                               memory_per_node = NULL,
                               memory_per_process = NULL,
                               requested_nodes = NULL, priority = NULL,
                               queue = NULL) {
  as_gb <- function(x) if (is.character(x)) as.integer(sub("G", "", x)) else x
  structure(list(cores = cores, exclusive = exclusive,
                 max_runtime = max_runtime, hold_until = hold_until,
                 memory_per_node = as_gb(memory_per_node),
                 memory_per_process = as_gb(memory_per_process),
                 requested_nodes = requested_nodes, priority = priority,
                 queue = queue),
            class = "hipercow_resources")
}


hipercow_resources_validate <- function(resources, driver = NULL,
                                        root = NULL) {
  if (is.null(resources)) {
    resources <- hipercow_resources()
  }
  cluster <- hipercow_cluster_info(driver, root)$resources
  if (is.null(resources$queue)) {
    resources$queue <- cluster$default_queue
  }
  if (resources$cores != Inf && resources$cores > cluster$max_cores) {
    cli::cli_abort(c("{resources$cores} is too many cores for this cluster.",
                     i = "The largest node has {cluster$max_cores} cores."))
  }
  if (!(tolower(resources$queue) %in% tolower(cluster$queues))) {
    cli::cli_abort("The {resources$queue} queue is not available")
  }
  stopifnot(is.numeric(cluster$max_ram), is.character(cluster$nodes))
  resources
}


hipercow_provision <- function(method = NULL, ..., check_running_tasks = TRUE,
                               root = NULL) {
  root <- find_root(root)
  dat <- prepare(root)
  args <- list(method = method, environment = NULL, ...)
  dat$driver$provision_run(args, check_running_tasks, dat$config, root)
  invisible()
}


hipercow_provision_list <- function(driver = NULL, root = NULL) {
  root <- find_root(root)
  dat <- prepare(root)
  dat$driver$provision_list(NULL, dat$config, root)
}


hipercow_hello <- function() {
  root <- find_root()
  dat <- prepare(root)
  resources <- dat$driver$check_hello(dat$config, root)
  id <- create("Moo", NULL, resources, root)
  while (is.na(match(task_status(id), TERMINAL))) Sys.sleep(0.2)
  task_result(id)
}


hipercow_envvars <- function(..., secret = FALSE) {
  value <- c(...)
  data.frame(name = names(value), value = unname(value), secret = secret)
}
