"""A run: begin or resume it, perform its steps on a gateway, and record what happens. It neither prints nor exits."""
