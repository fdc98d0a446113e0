"""Watching: signals of the stream and of the services, what is usual for the hour, findings that something moved, and episodes of it.

`signals` says what is watched, `configuration` how; `watchtower` takes batches of values and returns the changes of episodes;
`reaction` decides what is done about them. All of it is pure: times and random sources are passed in.
"""
