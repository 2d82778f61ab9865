// A CPU generator of PyTorch's (`of`; null: the one that operators draw from which are given none), lent to a compiled
// loop that draws many numbers at once: locked as PyTorch's own kernels lock it, so that other threads draw before or
// after, never the same numbers.

#include <ATen/CPUGeneratorImpl.h>

#include <cstdint>
#include <mutex>

extern "C" void generator_lend(void (*draw)(uint32_t *words, int *left, uint32_t *next, void *task), void *task,
                               void *of) {
  const at::Generator &shared = at::detail::getDefaultCPUGenerator();
  auto *impl = of ? static_cast<c10::GeneratorImpl *>(of) : shared.unsafeGetGeneratorImpl();
  const std::lock_guard<std::mutex> lock(impl->mutex_);
  auto *own = static_cast<at::CPUGeneratorImpl *>(impl);
  at::mt19937 engine = own->engine();
  at::mt19937_data_pod data = engine.data();
  draw(data.state_.data(), &data.left_, &data.next_, task);
  engine.set_data(data);
  own->set_engine(engine);
}
