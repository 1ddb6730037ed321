"""The event stream: what the leader's engine records, and how a follower's engine replays it."""
