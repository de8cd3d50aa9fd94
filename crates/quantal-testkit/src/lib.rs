//! Development only: graph builders, seeded data, bit-exact assertions.
