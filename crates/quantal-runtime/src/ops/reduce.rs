//! Operators that collapse axes ([`Reduction`]) and those that rank or run along one ([`Ordering`]).

mod ordering;
mod reduction;

pub use ordering::Ordering;
pub use reduction::Reduction;
