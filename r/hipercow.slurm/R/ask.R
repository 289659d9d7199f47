# One request to the API and what its answer means. A refusal is an error of
# the class hipercow_slurm_<code>, with the codes of the API's documentation.
TIMEOUT_S <- 30


ask <- function(session, method, path, query = list(), body = NULL,
                key = NULL, again = TRUE) {
  request <- prepare(session, method, path, query, body, key, again)
  answer <- tryCatch(
    httr2::req_perform(request),
    error = function(e) {
      reason <- conditionMessage(e$parent %||% e)
      cli::cli_abort(
        c("Cannot reach {session$url}: {reason}",
          i = "Check the URL and your network, or try again later"),
        class = "hipercow_slurm_api-unreachable", call = NULL)
    })
  understand(answer, session)
}


prepare <- function(session, method, path, query = list(), body = NULL,
                    key = NULL, again = TRUE) {
  request <- httr2::request(paste0(session$url, path))
  request <- httr2::req_method(request, method)
  request <- rlang::inject(httr2::req_url_query(request, !!!query))
  request <- httr2::req_user_agent(request, "hipercow.slurm")
  request <- httr2::req_headers(request, "X-Request-Id" = request_id())
  request <- httr2::req_timeout(request, TIMEOUT_S)
  # Never to another server, whatever this one says.
  request <- httr2::req_options(request, followlocation = FALSE)
  request <- httr2::req_error(request, is_error = function(answer) FALSE)
  if (!is.null(session$ca)) {
    request <- httr2::req_options(request, cainfo = session$ca)
  }
  if (!is.null(session$token)) {
    request <- httr2::req_auth_bearer_token(request, session$token)
  }
  if (!is.null(body)) {
    request <- httr2::req_body_json(request, body)
  }
  if (!is.null(key)) {
    request <- httr2::req_headers(request, "Idempotency-Key" = key)
  }
  # Repeated only where that does nothing twice.
  if (again && (method != "POST" || !is.null(key))) {
    request <- httr2::req_retry(
      request, max_seconds = 20,
      is_transient = function(answer) {
        httr2::resp_status(answer) %in% c(429, 502, 503, 504)
      })
  }
  request
}


# Goes with a request, each time it is sent, into the API's log, its audit log
# and a job's comment. HIPERCOW_SLURM_REQUEST_ID names one for all requests.
request_id <- function() {
  named <- Sys.getenv("HIPERCOW_SLURM_REQUEST_ID", NA)
  if (is.na(named)) {
    return(paste(openssl::rand_bytes(16), collapse = ""))
  }
  if (!grepl("^[A-Za-z0-9._-]{8,64}$", named)) {
    cli::cli_abort(
      paste("HIPERCOW_SLURM_REQUEST_ID must be 8 to 64 letters, digits, dots,",
            "dashes or underscores"),
      class = "hipercow_slurm_bad-request-id", call = NULL)
  }
  named
}


understand <- function(answer, session) {
  status <- httr2::resp_status(answer)
  if (status == 204) {
    return(invisible(NULL))
  }
  document <- tryCatch(
    httr2::resp_body_json(answer, check_type = FALSE, simplifyVector = FALSE),
    error = function(e) NULL)
  if (status >= 200 && status < 300 && !is.null(names(document))) {
    return(document)
  }
  if (status < 400 || !is.character(document$detail)) {
    cli::cli_abort("{session$url} answered {status} with something else than it should",
                   class = "hipercow_slurm_bad-answer", call = NULL)
  }
  detail <- document$detail
  hint <- document$hint
  if (status == 401) {
    hint <- "Please run 'hipercow.slurm::slurm_login()'"
  }
  cli::cli_abort(c("{detail}", i = if (!is.null(hint)) "{hint}"),
                 class = paste0("hipercow_slurm_", document$code), call = NULL)
}


# The cluster that a root was configured for, with the session of the last
# login there.
connect <- function(config = NULL) {
  session <- session_load()
  if (!is.null(config) && !identical(config$url, session$url)) {
    url <- config$url
    cli::cli_abort(
      c("You are logged in at {session$url}, but this root uses {url}",
        i = "Please run 'hipercow.slurm::slurm_login(\"{url}\")'"),
      class = "hipercow_slurm_not-logged-in", call = NULL)
  }
  session
}
