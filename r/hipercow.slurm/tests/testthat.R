library(testthat)
library(hipercow.slurm)

test_check("hipercow.slurm")
