"""What is asked: the scenario, its checks, and the one look-up of model, cluster, software and kernels."""
