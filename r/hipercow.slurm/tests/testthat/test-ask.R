test_that("a request has an id of its own, or the one that was named", {
  session <- list(url = "https://head:8443")
  sent <- function() {
    prepare(session, "POST", "/v1/jobs", key = "k")$headers[["X-Request-Id"]]
  }
  old <- Sys.getenv("HIPERCOW_SLURM_REQUEST_ID", NA)
  on.exit(if (is.na(old)) Sys.unsetenv("HIPERCOW_SLURM_REQUEST_ID")
          else Sys.setenv(HIPERCOW_SLURM_REQUEST_ID = old))
  Sys.unsetenv("HIPERCOW_SLURM_REQUEST_ID")
  expect_match(sent(), "^[0-9a-f]{32}$")
  expect_false(sent() == sent())
  Sys.setenv(HIPERCOW_SLURM_REQUEST_ID = "laptop-2e2f7a.41")
  expect_equal(sent(), "laptop-2e2f7a.41")
  for (bad in c("short", "with a space", "line\nbreak-in-it")) {
    Sys.setenv(HIPERCOW_SLURM_REQUEST_ID = bad)
    expect_error(sent(), class = "hipercow_slurm_bad-request-id")
  }
})
