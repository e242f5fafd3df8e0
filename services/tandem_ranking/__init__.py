"""The ranking service: the wire around `tandem_core.ranking_pipeline`, nothing else."""
