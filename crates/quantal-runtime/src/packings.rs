//! Packed weights, shared by all that read the same ones in the same form.

use quantal_tensor::Tensor;
use std::any::{Any, type_name};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::rc::Rc;
use std::sync::Arc;

/// What one compilation has packed, subgraphs included. A clone is a handle to the same.
#[derive(Clone, Default)]
pub(crate) struct Packings {
    made: Rc<RefCell<BTreeMap<Key, Made>>>,
}

/// Where the elements of a weight lie, and the form in which it was packed.
type Key = (usize, String);

/// The weight, which is kept so that nothing else comes to lie at its address, and what was made of it.
type Made = (Arc<Tensor>, Arc<dyn Any + Send + Sync>);

impl Packings {
    /// `weight` as `pack` packs it; what was made before from the same weight in the same `form`, if there is such. The
    /// form names all that the result depends on, besides the weight and the instruction set.
    pub(crate) fn get<T: Any + Send + Sync, E>(
        &self,
        weight: &Arc<Tensor>,
        form: &impl Debug,
        pack: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        let (name, dtype, shape) = (type_name::<T>(), weight.dtype(), weight.shape());
        let key = (weight.bytes().as_ptr().addr(), format!("{name} {dtype} {shape:?} {form:?}"));
        let found = self.made.borrow().get(&key).map(|made| Arc::clone(&made.1));
        if let Some(found) = found.and_then(|made| made.downcast().ok()) {
            return Ok(found);
        }
        let packed = Arc::new(pack()?);
        let made: Arc<dyn Any + Send + Sync> = Arc::<T>::clone(&packed);
        self.made.borrow_mut().insert(key, (Arc::clone(weight), made));
        Ok(packed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_weight_in_one_form_is_packed_once() {
        let packings = Packings::default();
        let weight = |values: &[f32]| Arc::new(Tensor::from_slice(&[values.len()], values).unwrap());
        let (a, b) = (weight(&[1.0, 2.0]), weight(&[1.0, 2.0]));
        let pack = |w: &Arc<Tensor>, form: u8| {
            packings.get(w, &form, || Ok::<_, ()>((form, w.as_slice::<f32>().to_vec()))).unwrap()
        };
        let first = pack(&a, 0);
        assert!(Arc::ptr_eq(&first, &pack(&Arc::clone(&a), 0)));
        assert!(Arc::ptr_eq(&first, &pack(&Arc::new((*a).clone()), 0)), "another handle to the same elements");
        for other in [pack(&a, 1), pack(&b, 0)] {
            assert!(!Arc::ptr_eq(&first, &other));
        }
        assert!(packings.get(&b, &2, || Err::<u8, _>("no memory")).is_err());
        assert_eq!(*packings.get(&b, &2, || Ok::<u8, ()>(7)).unwrap(), 7, "a failure is not kept");
    }
}
