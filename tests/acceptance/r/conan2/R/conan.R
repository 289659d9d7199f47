conan_configure <- function(method, ..., path_lib, path_bootstrap, path = ".",
                            environment = NULL) {
  stopifnot(method == "script", !startsWith(path_lib, "/"),
            is.character(path_bootstrap))
  list(path_lib = path_lib, path_bootstrap = path_bootstrap,
       hash = unname(tools::md5sum(file.path(path, "provision.R"))))
}


# The script runs in the root, with the library first in the search path.
conan_write <- function(config, path) {
  dir.create(dirname(path), showWarnings = FALSE, recursive = TRUE)
  marks <- file.path(config$path_lib, ".conan")
  writeLines(
    c(sprintf("dir.create(%s, FALSE, TRUE)", deparse(marks)),
      sprintf(".libPaths(c(%s, .libPaths()))", deparse(config$path_lib)),
      "source(\"provision.R\", echo = TRUE)",
      sprintf("writeLines(%s, file.path(%s, format(Sys.time(), \"%%s\")))",
              deparse(config$hash), deparse(marks))),
    path)
}


conan_list <- function(path_lib, hash = NULL) {
  marks <- dir(file.path(path_lib, ".conan"), full.names = TRUE)
  hashes <- vapply(marks, readLines, "", USE.NAMES = FALSE)
  data.frame(name = basename(marks), hash = hashes, method = rep("script", length(marks)),
             current = if (is.null(hash)) rep(NA, length(marks)) else hashes == hash)
}


conan_compare <- function(path_lib, curr = 0, prev = -1) {
  list(path_lib = path_lib, curr = curr, prev = prev)
}
