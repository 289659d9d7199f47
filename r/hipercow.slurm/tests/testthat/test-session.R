local_state <- function(env = parent.frame()) {
  path <- tempfile()
  old <- Sys.getenv("XDG_STATE_HOME", NA)
  Sys.setenv(XDG_STATE_HOME = path)
  do.call("on.exit", list(substitute(
    if (is.na(old)) Sys.unsetenv("XDG_STATE_HOME")
    else Sys.setenv(XDG_STATE_HOME = old), list(old = old)), add = TRUE),
    envir = env)
}


test_that("a session is for its owner alone, and is what was saved", {
  local_state()
  expect_error(session_load(), class = "hipercow_slurm_not-logged-in")
  session <- list(url = "https://head:8443", ca = NULL, username = "alice",
                  principal = "alice@X", token = "secret")
  session_save(session)
  expect_equal(format(file.info(session_path())$mode), "600")
  expect_equal(session_load()[c("url", "token")], session[c("url", "token")])
  Sys.chmod(session_path(), "0644")
  expect_error(session_load(), class = "hipercow_slurm_session-unsafe")
})


test_that("a root of one cluster is not used with a session of another", {
  local_state()
  session_save(list(url = "https://one:8443", username = "a", token = "t"))
  expect_equal(connect(list(url = "https://one:8443"))$token, "t")
  expect_error(connect(list(url = "https://two:8443")), "logged in at https://one")
})


test_that("a password goes nowhere in clear", {
  expect_equal(check_url("https://head.example.org:8443/"),
               "https://head.example.org:8443")
  expect_equal(check_url("http://127.0.0.1:80"), "http://127.0.0.1:80")
  for (url in c("http://head:8443", "ftp://head", "https://", "head:8443",
                "https://pat@head", "http://localhost.example.org")) {
    expect_error(check_url(url), "not a URL that a password")
  }
  expect_error(check_url(NULL), "No cluster is known")
})


test_that("a refusal is told with the server's words and code", {
  answer <- function(status, body) {
    httr2::response(status, headers = "Content-Type: application/problem+json",
                    body = charToRaw(body))
  }
  session <- list(url = "https://head")
  expect_error(
    understand(answer(422, paste0(
      "{\"detail\": \"Slurm refused {it}\", \"code\": \"job-rejected\", ",
      "\"hint\": \"ask less\"}")), session),
    "Slurm refused \\{it\\}.*ask less", class = "hipercow_slurm_job-rejected")
  expect_error(understand(answer(401, "{\"detail\": \"x\", \"code\": \"y\"}"),
                          session), "slurm_login")
  expect_error(understand(answer(200, "<html>"), session),
               class = "hipercow_slurm_bad-answer")
  expect_equal(understand(answer(200, "{\"a\": 1}"), session), list(a = 1L))
})


test_that("the driver has every function that hipercow calls", {
  driver <- hipercow_driver_slurm()
  expect_s3_class(driver, "hipercow_driver")
  arguments <- lapply(driver[names(driver) != "default_envvars"],
                      function(f) names(formals(f)))
  expect_equal(arguments[-1], list(
    submit = c("id", "resources", "config", "path_root"),
    status = c("id", "config", "path_root"),
    info = c("id", "config", "path_root"),
    log = c("id", "outer", "config", "path_root"),
    result = c("id", "config", "path_root"),
    cancel = c("id", "config", "path_root"),
    provision_run = c("args", "check_running_tasks", "config", "path_root"),
    provision_list = c("args", "config", "path_root"),
    provision_compare = c("curr", "prev", "config", "path_root"),
    keypair = c("config", "path_root"),
    check_hello = c("config", "path_root"),
    cluster_info = c("config", "path_root")))
})
