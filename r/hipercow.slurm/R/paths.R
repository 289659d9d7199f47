# Which folder on the nodes a folder here is: this computer's mount table, and
# the rows that the operator told the API (GET /v1/paths).

# A share from "//host/share", "\\host\share" or "host:/export"; NULL: none.
parse_share <- function(text) {
  text <- gsub("\\", "/", text, fixed = TRUE)
  patterns <- c("^//(?:[^/@]*@)?([^/]+)/(.+)$", "^\\[?([^/\\]\\s]+)\\]?:(/.*)$")
  for (pattern in patterns) {
    if (grepl(pattern, text, perl = TRUE)) {
      folder <- sub(pattern, "\\2", text, perl = TRUE)
      return(list(host = tolower(sub(pattern, "\\1", text, perl = TRUE)),
                  folder = gsub("^/+|/+$", "", folder)))
    }
  }
  NULL
}


# Where `path` lies below `folder`, without slashes around; NULL: elsewhere.
below <- function(path, folder) {
  path <- sub("/+$", "", path)
  folder <- sub("/+$", "", folder)
  if (path == folder) {
    return("")
  }
  if (startsWith(path, paste0(folder, "/"))) {
    return(substring(path, nchar(folder) + 2))
  }
  NULL
}


# A server's short name is the server, too.
same_server <- function(one, other) {
  short <- function(host) sub("\\..*$", "", host)
  one == other ||
    ((!grepl(".", one, fixed = TRUE) || !grepl(".", other, fixed = TRUE)) &&
       short(one) == short(other))
}


path_on_nodes <- function(path, mounts, rows) {
  inside <- Filter(function(m) !is.null(below(path, m$local)), mounts)
  if (length(inside) == 0) {
    cli::cli_abort(
      c("Can't map local directory '{path}' to network path",
        i = paste("You need to work with your hipercow root on a network",
                  "share that the cluster has, too")),
      class = "hipercow_slurm_no-share", call = NULL)
  }
  # The innermost mount is the one that is seen.
  mount <- inside[[which.max(nchar(vcapply(inside, function(m) m$local)))]]
  best <- NULL
  for (row in rows) {
    share <- parse_share(row$share)
    if (is.null(share) || !same_server(share$host, mount$host)) {
      next
    }
    rest <- below(mount$folder, share$folder)
    if (!is.null(rest) && nchar(share$folder) > (best$length %||% -1)) {
      best <- list(length = nchar(share$folder), path = row$path, rest = rest)
    }
  }
  name <- sprintf("//%s/%s", mount$host, mount$folder)
  if (is.null(best)) {
    known <- vcapply(rows, function(row) row$share)
    cli::cli_abort(
      c("The cluster does not know the share '{name}' that '{path}' is on",
        i = "The share{?s} it knows: {known}"),
      class = "hipercow_slurm_unknown-share", call = NULL)
  }
  parts <- c(sub("/+$", "", best$path), best$rest, below(path, mount$local))
  list(share = name, path = paste(parts[nzchar(parts)], collapse = "/"))
}


detect_mounts <- function() {
  switch(
    Sys.info()[["sysname"]],
    Linux = parse_mountinfo(readLines("/proc/self/mountinfo")),
    Windows = parse_smb_mapping(
      system2("powershell", c("-NoProfile", "-Command",
                              "\"Get-SmbMapping|ConvertTo-CSV\""),
              stdout = TRUE)),
    parse_mount(system2("mount", stdout = TRUE)))
}


# Linux, proc(5): fields 4 and 5 are folder and target, the source follows
# " - ". Blanks are octal.
parse_mountinfo <- function(lines) {
  clean <- function(x) {
    for (char in c(" " = "\\040", "\t" = "\\011", "\\" = "\\134")) {
      plain <- c("\\040" = " ", "\\011" = "\t", "\\134" = "\\")[[char]]
      x <- gsub(char, plain, x, fixed = TRUE)
    }
    x
  }
  found <- lapply(strsplit(lines, " - ", fixed = TRUE), function(halves) {
    fields <- strsplit(halves[[1]], " ", fixed = TRUE)[[1]]
    tail <- strsplit(halves[length(halves)], " ", fixed = TRUE)[[1]]
    share <- if (length(halves) == 2) parse_share(clean(tail[2]))
    if (is.null(share)) {
      return(NULL)
    }
    inner <- gsub("^/+", "", clean(fields[4]))
    folder <- paste(c(share$folder, inner)[nzchar(c(share$folder, inner))],
                    collapse = "/")
    list(host = share$host, folder = folder, local = clean(fields[5]))
  })
  Filter(Negate(is.null), found)
}


# macOS: "//pat@files/work on /Volumes/work (smbfs, ...)".
parse_mount <- function(lines) {
  pattern <- "^(.+?) on (/.*) \\([^()]*\\)$"
  lines <- grep(pattern, lines, value = TRUE, perl = TRUE)
  found <- lapply(lines, function(line) {
    source <- sub(pattern, "\\1", line, perl = TRUE)
    share <- parse_share(gsub("%20", " ", source, fixed = TRUE))
    if (!is.null(share)) {
      share$local <- sub(pattern, "\\2", line, perl = TRUE)
    }
    share
  })
  Filter(Negate(is.null), found)
}


# Windows: the CSV of Get-SmbMapping.
parse_smb_mapping <- function(lines) {
  lines <- lines[nzchar(lines) & !startsWith(lines, "#")]
  table <- utils::read.csv(text = lines, stringsAsFactors = FALSE)
  table <- table[table$Status == "OK" & nzchar(table$LocalPath), ]
  found <- Map(function(remote, local) {
    share <- parse_share(remote)
    if (!is.null(share)) {
      share$local <- local
    }
    share
  }, table$RemotePath, table$LocalPath)
  unname(Filter(Negate(is.null), found))
}
