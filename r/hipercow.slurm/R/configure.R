slurm_configure <- function(r_version = NULL, redis_url = NULL) {
  session <- connect()
  told <- ask(session, "GET", "/v1/hipercow")
  rows <- ask(session, "GET", "/v1/paths")$paths
  path_root <- normalizePath(getwd(), winslash = "/")
  found <- path_on_nodes(path_root, detect_mounts(), rows)
  r_version <- select_r_version(r_version, names(told$r))
  list(url = session$url,
       share = found$share,
       path = found$path,
       r_version = numeric_version(r_version),
       rscript = told$r[[r_version]],
       r_libs = told$r_libs,
       setup = told$setup %||% "",
       build_queue = told$build_queue,
       test_queue = told$test_queue,
       redis_url = redis_url,
       path_lib = file.path("hipercow", "lib", "slurm", r_version))
}


# The one that was asked for; else the one closest to ours that is not older,
# else the newest.
select_r_version <- function(r_version, valid, ours = getRversion()) {
  if (length(valid) == 0) {
    cli::cli_abort(
      c("The cluster's operator has named no R for hipercow",
        i = "Ask for a row 'r' in '[hipercow]' of its configuration"),
      call = NULL)
  }
  if (!is.null(r_version)) {
    r_version <- as.character(r_version)
    if (!(r_version %in% valid)) {
      cli::cli_abort(
        c("Unsupported R version: {r_version}",
          i = "Versions on the cluster: {valid}"), call = NULL)
    }
    return(r_version)
  }
  versions <- sort(numeric_version(valid))
  newer <- versions[versions >= ours]
  as.character(if (length(newer)) newer[1] else versions[length(versions)])
}


slurm_check <- function(path = getwd()) {
  good <- c(
    check_step("Checking your login", function() {
      ticket <- ask(connect(), "GET", "/v1/ticket")
      paste("You are logged in as", ticket$principal)
    }),
    check_step("Checking paths", function() {
      rows <- ask(connect(), "GET", "/v1/paths")$paths
      here <- normalizePath(path, winslash = "/")
      found <- path_on_nodes(here, detect_mounts(), rows)
      sprintf("'%s' is on '%s', and '%s' on the nodes", here, found$share,
              found$path)
    }))
  if (all(good)) {
    cli::cli_alert_success("You look good to go!")
  }
  invisible(all(good))
}


check_step <- function(title, look) {
  cli::cli_alert(title)
  tryCatch({
    found <- look()
    cli::cli_alert_success("{found}")
    TRUE
  }, error = function(e) {
    cli::cli_alert_danger("{conditionMessage(e)}")
    FALSE
  })
}
