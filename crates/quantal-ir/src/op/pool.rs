//! MaxPool, AveragePool: the attributes of pooling.

use super::conv::Window;
use crate::attrs::{AttrError, Attrs};

/// The attributes of a pooling operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolAttrs {
    /// Its window.
    pub window: Window,
    /// Whether a partial last window counts.
    pub ceil_mode: bool,
    /// Whether padding counts in an average.
    pub count_include_pad: bool,
    /// MaxPool's second output: indices in column-major order.
    pub column_major: bool,
}

impl PoolAttrs {
    /// Reads them.
    pub fn of(attrs: &Attrs) -> Result<Self, AttrError> {
        Ok(Self {
            window: Window::of(attrs, None)?,
            ceil_mode: attrs.flag("ceil_mode", false)?,
            count_include_pad: attrs.flag("count_include_pad", false)?,
            column_major: attrs.flag("storage_order", false)?,
        })
    }
}
