"""Text-driven rows, in the manner of HumanDiffusion: phrases, and the memory of cloth."""
