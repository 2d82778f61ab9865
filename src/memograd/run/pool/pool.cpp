// Memory that steps use again: an allocator for PyTorch's tensors on the CPU.
//
// PyTorch takes each tensor from malloc and gives it back behind its last use; malloc returns large blocks to the
// system, and the next step has every page of them mapped and cleared anew. A thread that is *inside* (between
// pool_enter and pool_leave) gets blocks of one region of addresses instead, which is kept. Other threads, and the same
// thread outside, get what PyTorch's own allocator gives them.
//
// A block is free or belongs to one tensor, until the memory of that tensor is released, wherever and whenever that is:
// so what somebody keeps is never handed out again.
//
// The allocations of a step are the same each time. pool_enter can write down one run of it; pool_leave gives each its
// place by size and lifetime, so that all together need little more than is alive at once, and the k-th allocation of a
// later run asks for its place. It gets it if every byte there is free, else the smallest free block that is large enough.

#include <c10/core/CPUAllocator.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>
#include <vector>

namespace {

constexpr size_t ALIGN = 64;        // of tensors, as in PyTorch
constexpr size_t SMALL = 1024;      // below this malloc keeps what it was given
constexpr size_t GROW = 32u << 20;  // bytes by which the usable part of the region grows
constexpr size_t AHEAD = 16;        // requests that a run may leave out before it has lost its places
constexpr size_t NOWHERE = ~size_t(0);

size_t rounded(size_t n, size_t to) { return (n + to - 1) / to * to; }

struct Request {
  size_t size, offset, born, dead;
};

// The allocations of one step, in order.
struct Places {
  std::vector<Request> requests;
  size_t end = 0;  // of the last place in the region; 0 before they are packed
};

// A thread, and where it is in its step.
struct Inside {
  int depth = 0;
  Places* places = nullptr;
  size_t next = 0;
  bool recording = false;
};

thread_local Inside inside;

class Pool {
 public:
  bool reserve() {
    size_t physical = size_t(sysconf(_SC_PHYS_PAGES)) * size_t(sysconf(_SC_PAGESIZE));
    reserved_ = rounded(physical, GROW);
    void* at = mmap(nullptr, reserved_ + GROW, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return false;
    base_ = reinterpret_cast<char*>(rounded(reinterpret_cast<size_t>(at), GROW));
    madvise(base_, reserved_, MADV_HUGEPAGE);
    return true;
  }

  bool owns(const void* p) const { return p >= base_ && p < base_ + reserved_; }

  void* take(size_t n, Inside& who) {
    size_t size = rounded(n, ALIGN);
    std::lock_guard<std::mutex> guard(mutex_);
    size_t at = NOWHERE;
    if (who.places && !who.recording) at = place(size, who);
    if (at == NOWHERE) at = best(size);
    if (at == NOWHERE && grow(size)) at = best(size);
    if (at == NOWHERE) return nullptr;
    cut(at, size);
    used_[at] = size;
    in_use_ += size;
    peak_ = std::max(peak_, in_use_);
    if (who.recording) {
      recorded_[at] = who.places->requests.size();
      who.places->requests.push_back({size, at, clock_++, NOWHERE});
    }
    return base_ + at;
  }

  void give(void* p) {
    size_t at = size_t(static_cast<char*>(p) - base_);
    std::lock_guard<std::mutex> guard(mutex_);
    auto found = used_.find(at);
    if (found == used_.end()) return;
    size_t size = found->second;
    used_.erase(found);
    in_use_ -= size;
    join(at, size);
    if (recording_) {  // any thread may release what the recorded one took
      auto known = recorded_.find(at);
      if (known != recorded_.end()) {
        recording_->requests[known->second].dead = clock_++;
        recorded_.erase(known);
      }
    }
  }

  bool start_recording(Places* places) {
    std::lock_guard<std::mutex> guard(mutex_);
    if (recording_ || places->end) return false;
    recording_ = places;
    places->requests.clear();
    return true;
  }

  // What was written down gets its places, if it is all of the run; nobody else may write it down before that is done.
  // Returns the bytes they need, or -1.
  long long stop_recording(bool whole) {
    forget_recorded();
    long long extent = whole ? (long long)pack(*recording_) : -1;
    std::lock_guard<std::mutex> guard(mutex_);
    recording_ = nullptr;
    return extent;
  }

  void forget(Places* places) {
    std::lock_guard<std::mutex> guard(mutex_);
    if (auto found = ends_.find(places->end); found != ends_.end()) ends_.erase(found);
    trim(ends_.empty() ? 0 : *ends_.rbegin());
    delete places;
  }

  void trim_all() {
    std::lock_guard<std::mutex> guard(mutex_);
    trim(0);
  }

  size_t number(int which) {
    std::lock_guard<std::mutex> guard(mutex_);
    const size_t numbers[] = {in_use_, usable_, hits_, misses_, peak_};
    if (which == 4) peak_ = in_use_;
    return numbers[which];
  }

  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  // From here on releases write nothing down.
  void forget_recorded() {
    std::lock_guard<std::mutex> guard(mutex_);
    recorded_.clear();
  }

  // Offline storage allocation: the largest first, each as low as nothing lies that is alive at the same time. What
  // outlives the step is alive during all of it.
  size_t pack(Places& places) {
    auto& all = places.requests;
    for (auto& r : all)
      if (r.dead == NOWHERE) r.born = 0;
    std::vector<size_t> order(all.size()), placed;  // placed: by offset
    for (size_t k = 0; k < order.size(); k++) order[k] = k;
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return all[a].size > all[b].size; });
    size_t extent = 0;
    for (size_t k : order) {
      size_t at = 0;
      for (size_t j : placed) {
        if (all[j].born > all[k].dead || all[k].born > all[j].dead) continue;
        if (at + all[k].size <= all[j].offset) break;
        at = std::max(at, all[j].offset + all[j].size);
      }
      all[k].offset = at;
      extent = std::max(extent, at + all[k].size);
      auto lower = [&](size_t offset, size_t j) { return offset < all[j].offset; };
      placed.insert(std::upper_bound(placed.begin(), placed.end(), at, lower), k);
    }
    std::lock_guard<std::mutex> guard(mutex_);
    size_t base = lowest(extent);
    for (auto& r : all) r.offset += base;
    places.end = base + extent;
    ends_.insert(places.end);
    trim(*ends_.rbegin());
    return extent;
  }

  size_t place(size_t size, Inside& who) {
    auto& all = who.places->requests;
    for (size_t k = who.next; k < std::min(all.size(), who.next + AHEAD); k++) {
      if (all[k].size != size) continue;
      who.next = k + 1;
      size_t at = all[k].offset;
      if (at + size > usable_) grow_to(at + size);
      if (!is_free(at, size)) break;
      hits_++;
      return at;
    }
    misses_++;
    return NOWHERE;
  }

  bool is_free(size_t at, size_t size) {
    auto after = free_.upper_bound(at);
    if (after == free_.begin()) return false;
    auto [from, length] = *std::prev(after);
    return from + length >= at + size;
  }

  size_t best(size_t size) {
    auto found = by_size_.lower_bound({size, 0});
    return found == by_size_.end() ? NOWHERE : found->second;
  }

  size_t lowest(size_t size) {
    for (auto [at, length] : free_)
      if (length >= size) return at;
    return usable_ - tail();
  }

  // Free bytes at the end of what is usable.
  size_t tail() {
    if (free_.empty()) return 0;
    auto [at, length] = *free_.rbegin();
    return at + length == usable_ ? length : 0;
  }

  bool grow(size_t size) { return grow_to(usable_ - tail() + size); }

  // Give the system the pages behind ``from`` that nobody uses.
  void trim(size_t from) {
    size_t page = size_t(sysconf(_SC_PAGESIZE));
    for (auto [at, length] : free_) {
      size_t first = rounded(std::max(at, from), page), last = (at + length) / page * page;
      if (last > first) madvise(base_ + first, last - first, MADV_DONTNEED);
    }
  }

  bool grow_to(size_t end) {
    size_t to = rounded(end, GROW);
    if (to > reserved_) return false;
    if (mprotect(base_ + usable_, to - usable_, PROT_READ | PROT_WRITE)) return false;
    size_t from = usable_;
    usable_ = to;
    join(from, to - from);
    return true;
  }

  void add(size_t at, size_t size) {
    free_[at] = size;
    by_size_.insert({size, at});
  }

  void drop(std::map<size_t, size_t>::iterator which) {
    by_size_.erase({which->second, which->first});
    free_.erase(which);
  }

  // [at, at + size) lies in one free block: take it out.
  void cut(size_t at, size_t size) {
    auto which = std::prev(free_.upper_bound(at));
    auto [from, length] = *which;
    drop(which);
    if (at > from) add(from, at - from);
    if (from + length > at + size) add(at + size, from + length - at - size);
  }

  void join(size_t at, size_t size) {
    auto after = free_.lower_bound(at);
    if (after != free_.begin()) {
      auto before = std::prev(after);
      if (before->first + before->second == at) {
        at = before->first;
        size += before->second;
        drop(before);
      }
    }
    if (after != free_.end() && after->first == at + size) {
      size += after->second;
      drop(after);
    }
    add(at, size);
  }

  std::mutex mutex_;
  char* base_ = nullptr;
  size_t reserved_ = 0, usable_ = 0, in_use_ = 0, peak_ = 0, hits_ = 0, misses_ = 0, clock_ = 1;
  std::map<size_t, size_t> free_;                // offset -> size; no two of them touch
  std::set<std::pair<size_t, size_t>> by_size_;  // the same as (size, offset)
  std::unordered_map<size_t, size_t> used_;      // offset -> size
  std::unordered_map<size_t, size_t> recorded_;  // offset -> its request
  Places* recording_ = nullptr;
  std::multiset<size_t> ends_;  // of all places
};

Pool& pool() {
  static Pool& it = *new Pool;  // tensors are released when statics are gone
  return it;
}

void release(void* p) {
  if (!p) return;
  if (!pool().owns(p)) return c10::GetDefaultCPUAllocator()->raw_deleter()(p);
  c10::profiledCPUMemoryReporter().Delete(p);
  pool().give(p);
}

struct Reusing final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    Inside& who = inside;
    if (who.depth && n >= SMALL) {
      if (void* p = pool().take(n, who)) {
        c10::profiledCPUMemoryReporter().New(p, n);
        return {p, p, &release, c10::Device(c10::DeviceType::CPU)};
      }
    }
    return c10::GetDefaultCPUAllocator()->allocate(n);
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t n) const override { default_copy_data(to, from, n); }
};

}  // namespace

extern "C" {

// 0: tensors on the CPU come from here now; 1: another allocator was there first; 2: no addresses.
int pool_install() {
  if (c10::GetCPUAllocator() != c10::GetDefaultCPUAllocator()) return 1;
  if (!pool().reserve()) return 2;
  pthread_atfork([] { pool().lock(); }, [] { pool().unlock(); }, [] { pool().unlock(); });
  c10::SetCPUAllocator(new Reusing);
  return 0;
}

void* pool_places() { return new Places; }
void pool_forget(void* places) { pool().forget(static_cast<Places*>(places)); }

// Whether this run is written down: one at a time is, in the whole process.
int pool_enter(void* places, int record) {
  Inside& who = inside;
  if (who.depth++) return 0;
  who.places = static_cast<Places*>(places);
  who.next = 0;
  who.recording = record && pool().start_recording(who.places);
  if (record && !who.recording) who.places = nullptr;
  return who.recording;
}

// The bytes of the places that were just written down, if the run was ``whole``; else -1.
long long pool_leave(int whole) {
  Inside& who = inside;
  if (!who.depth || --who.depth) return -1;
  long long extent = who.recording ? pool().stop_recording(whole) : -1;
  who = Inside();
  return extent;
}

void pool_trim() { pool().trim_all(); }

// 0: bytes in use, 1: bytes of the region so far, 2, 3: requests that got their place, and that did not, 4: the most
// bytes in use since this was last asked.
size_t pool_number(int which) { return pool().number(which); }
}
