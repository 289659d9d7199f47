# The session is the one of the command `hipercow-slurm login`: the same file,
# so that one login serves R, Python and the shell.
session_path <- function() {
  folder <- switch(
    Sys.info()[["sysname"]],
    Windows = file.path(Sys.getenv("LOCALAPPDATA"), "hipercow-slurm"),
    Darwin = path.expand("~/Library/Application Support/hipercow-slurm"),
    file.path(Sys.getenv("XDG_STATE_HOME", path.expand("~/.local/state")),
              "hipercow-slurm"))
  file.path(folder, "session.json")
}


# Raises "not-logged-in", "session-unsafe".
session_load <- function() {
  path <- session_path()
  if (!file.exists(path)) {
    not_logged_in()
  }
  # A session that others can read is theirs, too.
  mode <- file.info(path)$mode
  if (.Platform$OS.type == "unix" && (mode & as.octmode("077")) != "0") {
    cli::cli_abort(
      c("Others can read '{path}', and with it your session",
        i = "Please run 'hipercow.slurm::slurm_login()'"),
      class = "hipercow_slurm_session-unsafe")
  }
  session <- tryCatch(jsonlite::read_json(path), error = function(e) list())
  if (!is.character(session$url) || !is.character(session$token)) {
    not_logged_in()
  }
  session[c("url", "ca", "username", "principal", "token")]
}


not_logged_in <- function() {
  cli::cli_abort(
    c("You are not logged in",
      i = "Please run 'hipercow.slurm::slurm_login()'"),
    class = "hipercow_slurm_not-logged-in", call = NULL)
}


# Written aside and renamed, for its owner only.
session_save <- function(session) {
  path <- session_path()
  dir.create(dirname(path), showWarnings = FALSE, recursive = TRUE,
             mode = "0700")
  umask <- Sys.umask("077")
  on.exit(Sys.umask(umask))
  aside <- tempfile(".session-", tmpdir = dirname(path))
  jsonlite::write_json(session, aside, auto_unbox = TRUE, null = "null")
  file.rename(aside, path)
  invisible()
}


slurm_login <- function(url = NULL, username = NULL, password = NULL,
                        ca = NULL) {
  last <- tryCatch(jsonlite::read_json(session_path()),
                   error = function(e) list(), warning = function(w) list())
  url <- check_url(url %||% last$url)
  username <- username %||% last$username %||% Sys.info()[["user"]]
  if (is.null(ca) && identical(url, last$url)) {
    ca <- last$ca
  }
  if (is.null(password)) {
    password <- askpass::askpass(sprintf("Password of %s at %s: ",
                                         username, url))
  }
  if (is.null(password) || !nzchar(password)) {
    cli::cli_abort("Invalid empty password")
  }
  session <- list(url = url, ca = ca, username = username)
  body <- list(username = username, password = password)
  made <- ask(session, "POST", "/v1/sessions", body = body, again = FALSE)
  session_save(c(session, made[c("principal", "token")]))
  cli::cli_alert_success("Logged in as '{made$principal}'")
  invisible()
}


slurm_logout <- function() {
  session <- session_load()
  # Forgotten here first: whatever the server says, this computer no longer
  # holds the session.
  session_save(session[c("url", "ca", "username")])
  ask(session, "DELETE", "/v1/sessions/current")
  cli::cli_alert_success("Logged out")
  invisible()
}


check_url <- function(url) {
  if (is.null(url)) {
    cli::cli_abort(
      c("No cluster is known yet",
        i = "Give 'url', which looks like 'https://head.example.org:8443'"))
  }
  url <- sub("/+$", "", url)
  loopback <- grepl("^http://(localhost|127\\.[0-9.]+|\\[::1\\])(:[0-9]+)?$",
                    url)
  if (!grepl("^https://[^/@?#]+$", url) && !loopback) {
    cli::cli_abort(
      c("'{url}' is not a URL that a password may be sent to",
        i = "A URL looks like 'https://head.example.org:8443'"))
  }
  url
}
