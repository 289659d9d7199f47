# Every function here is called by hipercow as it is written in its
# documentation of hipercow_driver(), with one exception: `log` is given
# `outer`, not a number of lines.
hipercow_driver_slurm <- function() {
  driver <- list(
    configure = slurm_configure,
    submit = slurm_submit,
    status = slurm_status,
    info = slurm_info,
    log = slurm_log,
    result = slurm_result,
    cancel = slurm_cancel,
    provision_run = slurm_provision_run,
    provision_list = slurm_provision_list,
    provision_compare = slurm_provision_compare,
    keypair = slurm_keypair,
    check_hello = slurm_check_hello,
    cluster_info = slurm_cluster_info,
    default_envvars = NULL)
  # hipercow's constructor is not called: it would be the newest hipercow's,
  # which may ask for more, and registering must not fail for that.
  structure(driver, class = "hipercow_driver")
}
