"""Files in and out: manifests, photos, poses, parsing maps, the cache and provenance."""
