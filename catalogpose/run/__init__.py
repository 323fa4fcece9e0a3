"""Many rows on many devices: what is left to do, what is done, and who does it."""
