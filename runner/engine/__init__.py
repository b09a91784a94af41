"""The engine of a run: events, state, scheduler, simulation, resume decisions. Pure: it decides and never acts."""
