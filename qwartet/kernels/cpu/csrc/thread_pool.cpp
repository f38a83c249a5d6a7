#include "thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <new>
#include <thread>

namespace qw {
namespace {

constexpr auto SPIN_TIME = std::chrono::microseconds(50);

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

// Waits until `is_done` holds: spins first, then calls `rest` again and again.
template <class Predicate, class Rest>
void wait_until(const Predicate& is_done, const Rest& rest) {
    auto deadline = std::chrono::steady_clock::now() + SPIN_TIME;
    for (int round = 0; !is_done(); round++) {
        pause();
        if (round % 64 == 63 && std::chrono::steady_clock::now() > deadline) break;
    }
    while (!is_done()) rest();
}

struct Job {
    void (*function)(void*, int64_t);
    void* context;
    int64_t num_tasks;
};

// Workers enter a job through a gate: while it is open they enter and leave freely, and once the caller has closed it,
// the caller waits only for those inside. A worker that is still waking up delays nothing.
class Pool {
public:
    explicit Pool(int num_workers) {
        for (int i = 0; i < num_workers; i++) std::thread([this] { work(); }).detach();
    }

    void run(const Job& job) {
        job_ = job;
        next_.store(0, std::memory_order_relaxed);
        gate_.store(OPEN, std::memory_order_release);
        generation_.fetch_add(1);
        if (num_asleep_.load() > 0) generation_.notify_all();
        take_tasks();
        gate_.fetch_and(~OPEN);
        wait_until([this] { return gate_.load(std::memory_order_acquire) == 0; }, [] { sched_yield(); });
    }

    void stop() {
        stopping_.store(true);
        generation_.fetch_add(1);
        generation_.notify_all();
    }

private:
    static constexpr uint32_t OPEN = 1u << 31;

    void take_tasks() {
        for (int64_t task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < job_.num_tasks;)
            job_.function(job_.context, task);
    }

    bool enter() {
        uint32_t gate = gate_.load(std::memory_order_relaxed);
        while (gate & OPEN)
            if (gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acquire)) return true;
        return false;
    }

    void work() {
        for (int seen = 0; !stopping_.load(); seen = generation_.load()) {
            if (enter()) {
                take_tasks();
                gate_.fetch_sub(1, std::memory_order_release);
            }
            wait_until([&] { return generation_.load(std::memory_order_acquire) != seen; },
                       [&] {
                           num_asleep_.fetch_add(1);
                           generation_.wait(seen);
                           num_asleep_.fetch_sub(1);
                       });
        }
    }

    Job job_{};
    std::atomic<bool> stopping_{false};
    alignas(64) std::atomic<int> generation_{0};
    alignas(64) std::atomic<int64_t> next_{0};
    alignas(64) std::atomic<uint32_t> gate_{0};  // OPEN, and how many workers are inside
    alignas(64) std::atomic<int> num_asleep_{0};
};

int usable_cores() {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set)) return 1;
    int count = CPU_COUNT(&set);
    return count < MAX_THREADS ? count : MAX_THREADS;
}

#ifdef QWARTET_EXACT_SCRATCH  // for the sanitizers: a fresh allocation of the exact size exposes every overrun
constexpr bool IS_EXACT = true;
#else
constexpr bool IS_EXACT = false;
#endif

struct Buffer {
    void* data = nullptr;
    int64_t size = 0;

    void* grow(int64_t bytes) {
        if (bytes > size || IS_EXACT) {
            std::free(data);
            size = IS_EXACT ? bytes : (bytes + bytes / 4 + 4095) / 4096 * 4096;
            if (posix_memalign(&data, 4096, size)) {
                data = nullptr;
                size = 0;
                throw std::bad_alloc();
            }
        }
        return data;
    }
};

struct ThreadBuffer : Buffer {
    ~ThreadBuffer() { std::free(data); }
};

// Never destroyed: workers may outlive main(), and a forked child must not touch its parent's.
struct State {
    std::mutex mutex;
    Pool* pool = nullptr;
    int threads = usable_cores();
    Buffer buffers[int(Scratch::COUNT)];
};

State& state() {
    static State* the_state = [] {
        // A child has none of its parent's threads: it starts over, and creates a pool when it needs one.
        pthread_atfork(nullptr, nullptr, [] {
            int threads = state().threads;
            new (&state()) State;
            state().threads = threads;
        });
        return new State;
    }();
    return *the_state;
}

}  // namespace

std::unique_lock<std::mutex> begin_operation() { return std::unique_lock(state().mutex); }

void run_tasks(int64_t num_tasks, void (*function)(void*, int64_t), void* context) {
    State& s = state();
    if (num_tasks <= 1 || s.threads == 1) {
        for (int64_t task = 0; task < num_tasks; task++) function(context, task);
        return;
    }
    if (!s.pool) s.pool = new Pool(s.threads - 1);
    s.pool->run({function, context, num_tasks});
}

int num_threads() { return state().threads; }

void set_num_threads(int count) {
    State& s = state();
    if (count == s.threads) return;
    if (s.pool) s.pool->stop();  // its few bytes leak on purpose: a worker may still be on its way out
    s.pool = nullptr;
    s.threads = count;
}

void* scratch(Scratch purpose, int64_t bytes) { return state().buffers[int(purpose)].grow(bytes); }

int64_t scratch_held() {
    int64_t bytes = 0;
    for (const Buffer& buffer : state().buffers) bytes += buffer.size;
    return bytes;
}

void* thread_scratch(int64_t bytes) {
    thread_local ThreadBuffer own;
    return own.grow(bytes);
}

}  // namespace qw
