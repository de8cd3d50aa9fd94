//! The machine: integer and float kernels for each instruction set, bit-identical.
