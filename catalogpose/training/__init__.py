"""How the bundled model is made, step by resumable step."""
