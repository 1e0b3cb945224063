"""Shard folders: USTAR tars, an index beside each, one manifest and a ledger of dropped samples."""
