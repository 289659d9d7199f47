test_that("a share is known by all its names", {
  work <- list(host = "files", folder = "work")
  expect_equal(parse_share("//files/work"), work)
  expect_equal(parse_share("//pat@FILES/work/"), work)
  expect_equal(parse_share("\\\\files\\work"), work)
  expect_equal(parse_share("files:/work"), work)
  expect_equal(parse_share("//files/group a/deep")$folder, "group a/deep")
  expect_null(parse_share("/dev/sda1"))
  expect_null(parse_share("tmpfs"))
  expect_null(parse_share("//files"))
})


test_that("mount tables are read as systems print them", {
  linux <- c(
    "25 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw",
    paste("80 25 0:60 / /media/my\\040work rw shared:40 -",
          "cifs //files.example.org/work\\040a rw,vers=3.1.1"),
    "81 25 0:61 /group /mnt/group rw master:1 - nfs4 files:/export rw",
    "short")
  expect_equal(parse_mountinfo(linux), list(
    list(host = "files.example.org", folder = "work a",
         local = "/media/my work"),
    list(host = "files", folder = "export/group", local = "/mnt/group")))
  mac <- c("/dev/disk3s1s1 on / (apfs, sealed, local)",
           "//pat@files/my%20work on /Volumes/my work (smbfs, nodev)")
  expect_equal(parse_mount(mac), list(
    list(host = "files", folder = "my work", local = "/Volumes/my work")))
  windows <- c("#TYPE Microsoft.Management.Infrastructure.CimInstance",
               "\"Status\",\"LocalPath\",\"RemotePath\"",
               "\"OK\",\"W:\",\"\\\\files\\work\"",
               "\"Disconnected\",\"X:\",\"\\\\files\\other\"")
  expect_equal(parse_smb_mapping(windows), list(
    list(host = "files", folder = "work", local = "W:")))
})


test_that("a folder here is found on the nodes", {
  mounts <- list(
    list(host = "files.example.org", folder = "work", local = "/media/work"),
    list(host = "files.example.org", folder = "work/group/deep",
         local = "/media/work/deep"))
  rows <- list(list(share = "//files/work", path = "/a/"),
               list(share = "//files/work/group", path = "/b"))
  expect_equal(path_on_nodes("/media/work/x", mounts, rows)$path, "/a/x")
  expect_equal(path_on_nodes("/media/work", mounts, rows)$path, "/a")
  # The innermost mount and the most exact row win.
  expect_equal(path_on_nodes("/media/work/deep/x", mounts, rows)$path,
               "/b/deep/x")
  windows <- list(list(host = "files", folder = "work", local = "W:"))
  expect_equal(path_on_nodes("W:/x", windows, rows)$path, "/a/x")
})


test_that("no share, and a share that the cluster has not, are told apart", {
  mounts <- list(list(host = "files.example.org", folder = "work",
                      local = "/media/work"))
  expect_error(path_on_nodes("/media/workshop", mounts, list()),
               class = "hipercow_slurm_no-share")
  # Two servers whose short names are alike, but whose domains differ.
  rows <- list(list(share = "//files.example.com/work", path = "/a"),
               list(share = "//files/wor", path = "/b"))
  expect_error(path_on_nodes("/media/work", mounts, rows),
               "files.example.com/work", class = "hipercow_slurm_unknown-share")
})
