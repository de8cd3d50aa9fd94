"""torch's x86 configuration for ONNX files: the module that a file stands for, and what FX graph mode makes of it.

Both benches use it. Needs torch and onnx2torch.
"""


def load(path):
    """The float module of an ONNX file."""
    import onnx
    import onnx2torch
    import torch
    from onnx2torch.node_converters.matmul import OnnxMatMul

    network = onnx.load(path)
    # The module of a Pad takes no tensor as the value to pad with; 0 need not be given.
    zeros = {c.name for c in network.graph.initializer if not onnx.numpy_helper.to_array(c).any()}
    for node in network.graph.node:
        if node.op_type == "Pad" and node.input[2:] and node.input[2] in zeros:
            del node.input[2:]
    network = onnx2torch.convert(network).eval()
    # A product by a constant is a Linear, as in networks written in torch: its weights have a scale for each channel.
    products = [n for n in network.graph.nodes if n.op == "call_module" and isinstance(network.get_submodule(n.target), OnnxMatMul)]
    for node in products:
        if node.args[1].op == "get_attr":
            weight = network.get_buffer(node.args[1].target)
            linear = torch.nn.Linear(*weight.shape, bias=False)
            linear.weight = torch.nn.Parameter(weight.T.contiguous())
            network.set_submodule(node.target, linear)
            node.args = node.args[:1]
    network.recompile()
    return network


def quantize(network, samples):
    """The INT8 module: `get_default_qconfig_mapping("x86")`, calibrated on tuples of tensors.

    Modules of a class that `torch.fx` cannot trace (reshapes by a tensor) or that is given integers (which observers
    do not take) stay whole, and float.
    """
    import torch
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.fx.custom_config import PrepareCustomConfig
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    torch.backends.quantized.engine = "x86"
    with torch.no_grad():
        custom = PrepareCustomConfig().set_non_traceable_module_classes(list(kept_whole(network, samples[0])))
        prepared = prepare_fx(network, get_default_qconfig_mapping("x86"), samples[0], prepare_custom_config=custom)
        for sample in samples:
            prepared(*sample)
        return convert_fx(prepared)


def kept_whole(network, sample):
    """Classes of onnx2torch's own modules that quantizing leaves alone."""
    import torch

    modules = [m for m in network.modules() if type(m).__module__.startswith("onnx2torch.node_converters")]
    whole = set()

    def look(module, inputs):
        if not all(x.is_floating_point() for x in inputs if isinstance(x, torch.Tensor)):
            whole.add(type(module))

    hooks = [m.register_forward_pre_hook(look) for m in modules]
    network(*sample)
    for hook in hooks:
        hook.remove()
    for module in modules:
        try:
            torch.fx.symbolic_trace(module)
        except Exception:
            whole.add(type(module))
    return whole
