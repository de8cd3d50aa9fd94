//! Other people's runtimes: which values may be integers, and where.
