"""The one door to PyTorch's internals.

Everything here is private API of PyTorch that has no public counterpart. Each file says why its names are needed;
``tests/test_torch_adapter.py`` fails with a clear message when one of them changes. The rest of the library imports
from ``memograd._torch``.

fake.py        tensors without data, on which a program is traced
modes.py       what sees an operator before it runs, and who else traces
functorch.py   other people's transforms: ``torch.func``, forward mode, batched cotangents
autograd.py    the engine, and custom ``autograd.Function``s as it sees them
hooks.py       what users registered on tensors, modules and optimizers
modules.py     where modules hold what they hold; TorchScript
operators.py   schemas, composite operators, operators of ``torch.library``
allocations.py what an operator takes of the allocator
memory.py      which memory a tensor looks at, and how it lies there
generators.py  where random numbers come from
own_draws.py   operators that draw from a generator of one thread's own
compilers.py   Inductor and Dynamo
backends.py    what the libraries behind operators are told

``pytree``, flattening of nested containers, is that of PyTorch with the registrations other libraries (transformers)
made.
"""

# ruff: noqa: F401  (imported for the rest of the library)

from __future__ import annotations

import torch

try:
    from torch.utils import _pytree as pytree

    from memograd._torch.allocations import allocation_peaks
    from memograd._torch.autograd import (
        SingleLevelFunction,
        apply_alone,
        asked_for,
        at_the_end,
        backward_class,
        current_pass,
        free_saved,
        needed_inputs,
        nodes_behind,
        run_backward,
    )
    from memograd._torch.backends import float32_precisions, put_float32_precisions, without_cudnn
    from memograd._torch.compilers import (
        compiler_failed,
        dynamo_listens,
        inductor_function,
        inductor_graph,
        keeps_roundings,
        last_passes,
        load_inductor,
        one_graph,
        with_data_set,
    )
    from memograd._torch.fake import (
        DATA_DEPENDENT,
        FAKE,
        UNSUPPORTED,
        DataDependentOutputException,
        DynamicOutputShapeException,
        FakeTensor,
        FakeTensorMode,
        Geometry,
        UnsupportedOperatorException,
        attributes_of,
        compressed_fake,
        fake_like,
        fake_of,
        forget_shapes,
        geometry_of,
        has_data,
        is_fake,
        needs_data,
        quiet,
        shapes_of,
    )
    from memograd._torch.functorch import (
        batched,
        has_batching_rule,
        in_forward_mode,
        inside_torch_func,
        is_batched,
        is_tracked,
        is_wrapped,
        level_of,
        levels,
        outside_torch_func,
        unbatched,
        wrapped_value,
    )
    from memograd._torch.generators import (
        address_of,
        in_front,
        is_default_generator,
        put_state,
        state_of,
    )
    from memograd._torch.hooks import (
        forward_hooks,
        has_hooks,
        has_step_hooks,
        hooks_by_kind,
        hooks_of,
        module_hooks,
        note_step,
        register_hook,
        saved_tensor_hooks,
        without_hooks,
        without_saved_tensor_hooks,
    )
    from memograd._torch.memory import (
        PICKLES_BY,
        VERSION,
        address,
        copy_of,
        elementwise_strides,
        entries_of,
        is_lent,
        is_view_of_autograd,
        keeps_its_numbers_elsewhere,
        memory_of,
        neg_view,
        share_memory,
        suggested_format,
    )
    from memograd._torch.modes import (
        DispatchMode,
        TorchDispatchMode,
        any_modes,
        default_device,
        dispatch_modes,
        inside_make_fx,
        modes_of_others,
        others_around,
        passed_on,
        past_the_dispatcher,
        surrounded,
        unseen,
        with_function_modes,
        without_dispatch_modes,
        without_function_modes,
        without_modes,
    )
    from memograd._torch.modules import (
        ScriptMethod,
        forget_plans,
        optimized_execution,
        parametrized_values,
        positional,
        scripted_state,
        tables_of,
        with_reads_seen,
    )
    from memograd._torch.operators import (
        generated_function,
        has_own_kernel,
        is_composite,
        is_given_functions,
        quick,
        registered_backward,
        schema_of,
        taken_apart,
    )
    from memograd._torch.own_draws import (
        Own,
        may_draw,
        own_generator_here,
        own_generators_here,
        redirected,
        resumed,
        shared_generator,
    )
except ImportError as error:
    raise ImportError(
        f"memograd reads internals of PyTorch 2.11 to 2.13, and PyTorch {torch.__version__} lacks one: {error}. "
        "Install one of those versions"
    ) from error
