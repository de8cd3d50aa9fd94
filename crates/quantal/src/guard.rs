//! Independent trials: one that fails, by an error or by a panic, does not end the others.

use crate::error::Error;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Does a job; a panic in it is an [`Error::Internal`]. The job may leave what it changes half done, so it may only
/// change what is dropped or made again after a failure.
pub(crate) fn guarded<T>(job: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|panic| Err(Error::Internal { message: message(&*panic) }))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    text.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_pass_and_panics_become_errors() {
        assert_eq!(guarded(|| Ok(3)).unwrap(), 3);
        assert_eq!(guarded::<()>(|| Err(Error::job("no", ""))).unwrap_err().to_string(), "no");
        for (panic, text) in [("plain", "plain"), ("with\nbreak", "with\\nbreak")] {
            let error = guarded::<()>(|| panic!("{panic}")).unwrap_err();
            assert_eq!(error.to_string(), format!("internal error: {text}"));
            assert!(error.hint().unwrap().contains("report"));
        }
    }
}
