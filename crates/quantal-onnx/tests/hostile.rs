//! Bytes that no exporter writes: each is an error or a model, never a panic, never a flood of memory.

use quantal_onnx::{AttributeProto, Error, Model, NodeProto, TensorProto, encode};
use quantal_tensor::Bytes;

fn parse(bytes: &[u8]) -> Result<Model, Error> {
    Model::parse(Bytes::copy_from(bytes).unwrap())
}

fn fails(bytes: &[u8]) -> String {
    parse(bytes).unwrap_err().to_string()
}

fn varint(mut v: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while v > 127 {
        out.push(v as u8 | 128);
        v >>= 7;
    }
    out.push(v as u8);
    out
}

/// A length-delimited field.
fn ld(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2][..], &varint(content.len() as u64), content].concat()
}

/// A model with one node, one initializer of each storage, a subgraph and a function, spelled out byte by byte.
fn small() -> Vec<u8> {
    let raw = [ld(8, b"w"), vec![8, 2, 16, 1], ld(9, &[0; 8])].concat();
    let typed = [ld(8, b"i"), vec![8, 3, 16, 7], ld(7, &[1, 2, 0xac, 2])].concat();
    let inner = [ld(1, &[ld(4, b"Relu"), ld(1, b"x")].concat()), ld(5, &typed)].concat();
    let attribute = [ld(1, b"then_branch"), ld(6, &inner), vec![0xa0, 1, 5]].concat();
    let node = [ld(1, b"c"), ld(2, b"y"), ld(4, b"If"), ld(5, &attribute)].concat();
    let shape = ld(2, &[ld(1, &[8, 2]), ld(1, &ld(2, b"N"))].concat());
    let value = [ld(1, b"c"), ld(2, &ld(1, &[vec![8, 1], shape].concat()))].concat();
    let graph = [ld(1, &node), ld(2, b"g"), ld(5, &raw), ld(5, &typed), ld(11, &value)].concat();
    [vec![8, 8], ld(2, b"hand"), ld(7, &graph), ld(8, &[16, 17]), ld(14, &[ld(1, b"k"), ld(2, b"v")].concat())].concat()
}

#[test]
fn a_model_spelled_out_by_hand_is_read_and_written_back() {
    let bytes = small();
    let model = parse(&bytes).unwrap();
    assert_eq!(encode(&model.proto), bytes);
    let graph = model.graph();
    assert_eq!(graph.node[0].op_type, "If");
    let inner = graph.node[0].attribute[0].g.as_ref().unwrap();
    assert_eq!(inner.node[0].input, ["x"]);
    assert_eq!(model.tensor(&inner.initializer[0]).unwrap().as_slice::<i64>(), [1, 2, 300]);
    assert_eq!(model.tensor(&graph.initializer[0]).unwrap().as_slice::<f32>(), [0.0, 0.0]);
    let dims = &graph.input[0].ty.as_ref().unwrap().tensor_type.as_ref().unwrap().shape.as_ref().unwrap().dim;
    assert_eq!((dims[0].dim_value, dims[1].dim_param.as_deref()), (Some(2), Some("N")));
    assert_eq!(model.proto.opset_import[0].version, 17);
}

#[test]
fn a_changed_message_keeps_its_unknown_fields_and_its_neighbours() {
    let odd = [0xf8, 0x3f, 42]; // field 1023, varint
    let node = [ld(4, b"Relu"), ld(6, b"doc"), odd.to_vec()].concat();
    // `Add` gives its type before its name and its empty name explicitly: legal, and nobody's canonical order.
    let other = [ld(4, b"Add"), ld(3, b""), ld(1, b"a")].concat();
    let bytes = [ld(7, &[ld(1, &node), ld(1, &other)].concat()), odd.to_vec()].concat();
    let mut model = parse(&bytes).unwrap().proto;
    assert_eq!(encode(&model), bytes);
    let changed = &mut model.graph.as_mut().unwrap().node[0];
    changed.op_type = "Clip".into();
    changed.origin = None;
    let node = [ld(4, b"Clip"), ld(6, b"doc"), odd.to_vec()].concat();
    let expected = [ld(7, &[ld(1, &node), ld(1, &other)].concat()), odd.to_vec()].concat();
    assert_eq!(encode(&model), expected);
}

#[test]
fn packed_and_single_numbers_and_the_last_scalar_are_read() {
    let ints = [ld(8, &[1, 0x80, 1]), vec![64, 5], ld(7, &1.5_f32.to_le_bytes()), vec![61, 0, 0, 0, 64]].concat();
    let attribute = [ints, vec![24, 1, 24, 2]].concat();
    let data = [ld(7, &[1, 2]), vec![56, 3], vec![56, 4], ld(7, &[5])].concat();
    let tensor = [vec![10, 2, 5, 1], vec![16, 7], data].concat();
    let graph = [ld(1, &ld(5, &attribute)), ld(5, &tensor)].concat();
    let model = parse(&ld(7, &graph)).unwrap();
    let attribute = &model.graph().node[0].attribute[0];
    assert_eq!((&attribute.ints[..], &attribute.floats[..]), (&[1, 128, 5][..], &[1.5, 2.0][..]));
    assert_eq!(attribute.i, Some(2));
    assert_eq!(model.tensor(&model.graph().initializer[0]).unwrap().as_slice::<i64>(), [1, 2, 3, 4, 5]);
}

#[test]
fn damage_is_named() {
    for (bytes, words) in [
        (&[8, 8][..], "no graph"),
        (&[0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0], "beyond its message"),
        (&[0x3a, 5, 0], "beyond its message"),
        (&[0x3d, 0, 0, 0, 0], "wire type (in model, field 7"),
        (&[0x3b], "not a wire type"),
        (&[0], "not a field number"),
        (&[0x3a, 0, 0x80], "ends inside a number"),
        (&[0x3a, 0, 0x3a, 0], "given twice"),
        (&[0x3a, 3, 0x12, 1, 0xff], "UTF-8 (in graph, field 2"),
        (&[0x3a, 0, 0x0d, 1], "ends inside a number"),
        (&[0x3a, 0, 0x0c], "not a wire type"),
    ] {
        let message = fails(bytes);
        assert!(message.contains(words), "{bytes:?}: {message}");
    }
}

#[test]
fn no_cut_and_no_flip_of_a_byte_panics() {
    let whole = small();
    let touch = |bytes: &[u8]| {
        let Ok(model) = parse(bytes) else { return };
        for t in &model.graph().initializer {
            let _ = model.tensor(t);
        }
        assert!(parse(&encode(&model.proto)).is_ok(), "what was read can be written and read again");
    };
    for cut in 0..whole.len() {
        touch(&whole[..cut]);
        touch(&whole[cut..]);
    }
    let mut state = 7_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for _ in 0..20_000 {
        let mut bytes = whole.clone();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            bytes[at] = random(256) as u8;
        }
        touch(&bytes);
    }
}

#[test]
fn nesting_ends_in_an_error_not_in_the_stack() {
    let nested = |levels: usize| {
        let mut graph = Vec::new();
        for _ in 0..levels {
            graph = ld(1, &ld(5, &ld(6, &graph)));
        }
        ld(7, &graph)
    };
    let model = parse(&nested(64)).unwrap();
    assert_eq!(encode(&model.proto), nested(64));
    assert!(fails(&nested(400)).contains("nest deeper"));
    assert!(fails(&nested(3_000)).contains("nest deeper"));
    let mut ty = Vec::new();
    for _ in 0..5000 {
        ty = ld(4, &ld(1, &ty));
    }
    assert!(fails(&ld(7, &ld(11, &ld(2, &ty)))).contains("nest deeper"));
}

#[test]
fn a_small_file_of_many_parts_stays_small_in_memory() {
    // A million nodes of two bytes each, as in the hostile corpus: allowed, at the price of the structs.
    assert!(std::mem::size_of::<NodeProto>() <= 216);
    let model = parse(&ld(7, &[10, 0].repeat(1_000_000))).unwrap();
    assert_eq!(model.graph().node.len(), 1_000_000);
    // Three million attributes would take over a gigabyte.
    assert!(std::mem::size_of::<AttributeProto>() * 3_000_000 > 1 << 30);
    assert!(matches!(parse(&ld(7, &ld(1, &[42, 0].repeat(3_000_000)))), Err(Error::TooManyParts(_))));
}

#[test]
fn names_in_messages_are_harmless() {
    let t = TensorProto { name: "\x1b[31m\n".repeat(100), dims: vec![-1], data_type: 1, ..TensorProto::default() };
    let message = parse(&ld(7, &[])).unwrap().tensor(&t).unwrap_err();
    let message = message.to_string();
    assert!(message.len() < 1000 && !message.contains(char::is_control), "{message:?}");
}
