"""Memory that steps on the CPU use again: `pool.cpp` says how, `library` compiles and installs it, `places` uses it."""
