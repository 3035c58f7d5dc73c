# A C program of several files, built by make with two jobs, as objects, a library and an executable.
set -eu
mkdir source
for n in 1 2 3 4; do
    echo "int f$n(void) { return $n; }" > source/f$n.c
done
cat > source/main.c <<'C'
#include <pthread.h>
#include <stdio.h>
int f1(void), f2(void), f3(void), f4(void);
static void *run(void *argument) { *(int *)argument += f4(); return 0; }
int main(void)
{
    int sum = f1() + f2() + f3();
    pthread_t thread;
    pthread_create(&thread, 0, run, &sum);
    pthread_join(thread, 0);
    printf("sum %d\n", sum);
    return 0;
}
C
cat > Makefile <<'MAKE'
OBJECTS := $(patsubst source/%.c,build/%.o,$(wildcard source/f*.c))
program: build/main.o libf.a
	$(CC) -pthread -o $@ $^
libf.a: $(OBJECTS)
	$(AR) rcs $@ $^
build/%.o: source/%.c | build
	$(CC) -O2 -g -Wall -pipe -c -o $@ $<
build:
	mkdir -p $@
MAKE
make -j2 CC=gcc
test "$(./program)" = "sum 10"
make -j2 CC=gcc | grep -q 'up to date'
gcc -shared -fPIC -flto -o libshared.so source/f1.c
echo ok
