"""PLAN -> LAYERS -> IMAGE: see `build.build`."""
