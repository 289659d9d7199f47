slurm_cluster_info <- function(config, path_root) {
  session <- connect(config)
  told <- ask(session, "GET", "/v1/hipercow")
  partitions <- ask(session, "GET", "/v1/partitions")$partitions
  nodes <- ask(session, "GET", "/v1/nodes")$nodes
  resources <- cluster_resources(partitions, nodes, config)
  list(resources = resources,
       r_versions = numeric_version(names(told$r)),
       redis_url = config$redis_url)
}


cluster_resources <- function(partitions, nodes, config) {
  queues <- vcapply(partitions, function(one) one$name)
  if (length(queues) == 0) {
    cli::cli_abort(c("The cluster has no queue for you",
                     i = "Ask its operator"), call = NULL)
  }
  default <- queues[vlapply(partitions, function(one) isTRUE(one$is_default))]
  default <- c(default, queues)[[1]]
  number <- function(name) vapply(nodes, function(one) one[[name]] + 0, 1)
  list(name = "slurm",
       node_os = "linux",
       max_ram = floor(max(0, number("memory_mb")) / MB_PER_GB),
       max_cores = max(0, number("cpus")),
       queues = queues,
       nodes = vcapply(nodes, function(one) one$name),
       default_queue = default,
       build_queue = config$build_queue %||% default,
       test_queue = config$test_queue %||% default,
       redis_url = config$redis_url)
}


slurm_check_hello <- function(config, path_root) {
  if (!slurm_check(path_root)) {
    cli::cli_abort("Failed checks for using the Slurm cluster; please see above",
                   call = NULL)
  }
  validate <- getExportedValue("hipercow", "hipercow_resources_validate")
  resources <- validate(NULL, "slurm", path_root)
  resources$queue <- slurm_cluster_info(config, path_root)$resources$test_queue
  resources
}


# For secret environment variables: hipercow encrypts them here, and the task
# decrypts them with the private key.
slurm_keypair <- function(config, path_root) {
  user <- gsub("[^A-Za-z0-9._-]", "_", connect(config)$username)
  path <- file.path("hipercow", "slurm", "keys", user)
  here <- file.path(path_root, path)
  if (!file.exists(here)) {
    umask <- Sys.umask("077")
    on.exit(Sys.umask(umask))
    dir.create(dirname(here), showWarnings = FALSE, recursive = TRUE)
    key <- openssl::rsa_keygen()
    # The private one last: where it is, both are.
    openssl::write_ssh(as.list(key)$pubkey, paste0(here, ".pub"))
    openssl::write_pem(key, here)
  }
  list(pub = readLines(paste0(here, ".pub"))[[1]],
       key = file.path(config$path, path))
}
