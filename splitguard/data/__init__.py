# SPDX-License-Identifier: Apache-2.0
"""Data: sources by name, the disjoint parts of a deployment, the partition over clients, and augmentation."""

from splitguard.data.augment import augment
from splitguard.data.downloads import DOWNLOADS, cache_folder, fetch
from splitguard.data.partition import PARTITIONS, Partition, partition
from splitguard.data.pool import Pool, from_dataset
from splitguard.data.rows import Data, Rows
from splitguard.data.sizes import Sizes, sizes
from splitguard.data.sources import DATASETS, open_pool
from splitguard.data.spec import DataSpec, load
from splitguard.data.splits import draw

__all__ = [
    "DATASETS",
    "DOWNLOADS",
    "PARTITIONS",
    "Data",
    "DataSpec",
    "Partition",
    "Pool",
    "Rows",
    "Sizes",
    "augment",
    "cache_folder",
    "draw",
    "fetch",
    "from_dataset",
    "load",
    "open_pool",
    "partition",
    "sizes",
]
