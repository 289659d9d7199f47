MB_PER_GB <- 1000 # as hipercow's drivers count
JOB_ID <- "slurm_id"
OUTER_LOG <- "slurm.log"
TERMINAL <- c("success", "failure", "cancelled")


vcapply <- function(x, fun, ...) {
  vapply(x, fun, character(1), ..., USE.NAMES = FALSE)
}


vlapply <- function(x, fun, ...) {
  vapply(x, fun, logical(1), ..., USE.NAMES = FALSE)
}


task_path <- function(path_root, id, ...) {
  file.path(path_root, "hipercow", "tasks", substr(id, 1, 2), substring(id, 3),
            ...)
}


read_if_exists <- function(path) {
  if (file.exists(path)) readLines(path, warn = FALSE) else NULL
}


# Unix line ends also where files are written on Windows.
write_lines <- function(text, path) {
  dir.create(dirname(path), showWarnings = FALSE, recursive = TRUE)
  con <- file(path, "wb")
  on.exit(close(con))
  writeLines(text, con, sep = "\n")
}


# A time as the API writes it.
parse_time <- function(text) {
  if (is.null(text)) {
    return(as.POSIXct(NA))
  }
  as.POSIXct(sub("(\\.[0-9]+)?(Z|\\+00:00)$", "", text), tz = "UTC",
             format = "%Y-%m-%dT%H:%M:%S")
}
