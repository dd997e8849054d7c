"""All bytes between processes: messages, sequence blocks, channels with acknowledgement and credit, keys.

In come sequences and parameters; out go the same at the other end, exactly once and in order (`docs/wire.md`). The
actor process has one end, the learner's wire thread the other. It knows no game: it may import `learning.sequences`,
`runs` and `errors` alone.
"""
