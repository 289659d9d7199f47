# Tasks: what is on disk, and when the driver is asked.
TERMINAL <- c("success", "failure", "cancelled")


path_task <- function(root, id, ...) {
  file.path(root, "hipercow", "tasks", substr(id, 1, 2), substring(id, 3), ...)
}


task_create_expr <- function(expr, envvars = NULL, resources = NULL,
                             root = NULL) {
  create(substitute(expr), envvars, resources, find_root(root))
}


create <- function(expr, envvars, resources, root) {
  dat <- prepare(root)
  resources <- hipercow_resources_validate(resources, dat$name, root)
  id <- paste(as.character(openssl::rand_bytes(16)), collapse = "")
  dir.create(path_task(root, id), recursive = TRUE)
  if (any(envvars$secret)) {
    keypair <- dat$driver$keypair(dat$config, root)
    envvars$value <- vapply(envvars$value, function(value) {
      openssl::base64_encode(
        openssl::rsa_encrypt(charToRaw(value), keypair$pub))
    }, "")
    attr(envvars, "key") <- keypair$key
  }
  saveRDS(list(id = id, expr = expr, envvars = envvars, time = Sys.time()),
          path_task(root, id, "data"))
  file.create(path_task(root, id, "Renviron"))
  dat$driver$submit(id, resources, dat$config, root)
  writeLines(dat$name, path_task(root, id, "status-submitted"))
  saveRDS(resources, path_task(root, id, "resources"))
  id
}


# On a node.
task_eval <- function(id, verbose = FALSE, root = NULL) {
  root <- find_root(root)
  if (file.exists(path_task(root, id, "status-running"))) {
    stop("Can't start task, it is running already")
  }
  file.create(path_task(root, id, "status-running"))
  data <- readRDS(path_task(root, id, "data"))
  started <- Sys.time()
  result <- tryCatch({
    key <- attr(data$envvars, "key")
    for (i in seq_len(NROW(data$envvars))) {
      value <- data$envvars$value[[i]]
      if (data$envvars$secret[[i]]) {
        value <- rawToChar(
          openssl::rsa_decrypt(openssl::base64_decode(value), key))
      }
      do.call(Sys.setenv, as.list(setNames(value, data$envvars$name[[i]])))
    }
    eval(data$expr, new.env())
  }, error = identity)
  status <- if (inherits(result, "error")) "failure" else "success"
  times <- c(created = data$time, started = started, finished = Sys.time())
  saveRDS(list(status = status, times = times), path_task(root, id, "info"))
  saveRDS(result, path_task(root, id, "result"))
  file.create(path_task(root, id, paste0("status-", status)))
  invisible(status == "success")
}


# Files first; the driver for what has no last status; and what the driver says
# is last becomes a file.
task_status <- function(id, root = NULL) {
  root <- find_root(root)
  status <- rep(NA_character_, length(id))
  for (s in TERMINAL) {
    there <- file.exists(path_task(root, id, paste0("status-", s)))
    status[is.na(status) & there] <- s
  }
  open <- is.na(status)
  if (any(open)) {
    dat <- prepare(root)
    told <- dat$driver$status(id[open], dat$config, root)
    stopifnot(is.character(told), length(told) == sum(open))
    last <- told %in% TERMINAL
    file.create(path_task(root, id[open][last], paste0("status-", told[last])))
    status[open] <- told
  }
  status
}


task_result <- function(id, root = NULL) {
  root <- find_root(root)
  path <- path_task(root, id, "result")
  if (!file.exists(path)) {
    status <- task_status(id, root = root)
    if (!(status %in% c("success", "failure"))) {
      cli::cli_abort("Result for task '{id}' not available, status is '{status}'")
    }
    dat <- prepare(root)
    dat$driver$result(id, dat$config, root)
  }
  readRDS(path)
}


task_log_value <- function(id, outer = FALSE, root = NULL) {
  root <- find_root(root)
  dat <- prepare(root)
  dat$driver$log(id, outer, dat$config, root)
}


task_info <- function(id, root = NULL) {
  root <- find_root(root)
  status <- task_status(id, root = root)
  if (status %in% TERMINAL) {
    times <- readRDS(path_task(root, id, "info"))$times
  } else {
    dat <- prepare(root)
    told <- dat$driver$info(id, dat$config, root)
    stopifnot(told$status != "success")
    times <- c(started = told$time_started)
  }
  list(id = id, status = status, times = times)
}


task_cancel <- function(id, root = NULL) {
  root <- find_root(root)
  dat <- prepare(root)
  cancelled <- rep(FALSE, length(id))
  open <- task_status(id, root = root) %in% c("submitted", "running")
  if (any(open)) {
    told <- dat$driver$cancel(id[open], dat$config, root)
    stopifnot(is.logical(told$cancelled),
              inherits(told$time_started, "POSIXct"),
              lengths(told) == sum(open))
    cancelled[open] <- told$cancelled
    for (i in which(cancelled)) {
      file.create(path_task(root, id[[i]], "status-cancelled"))
      times <- c(started = told$time_started[cumsum(open)[[i]]])
      saveRDS(list(status = "cancelled", times = times),
              path_task(root, id[[i]], "info"))
    }
  }
  cancelled
}
