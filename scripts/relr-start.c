/* Where the program begins: makes the relative relocations of DT_RELR, which take a bit each instead of 24 bytes (30 kB here)
 * but which Debian's musl 1.2.3 does not know (1.2.4 does), and goes on to musl's own _start. What is done here is marked
 * as done, so a newer musl does not do it again. Format: "Relative Relocations" of the ELF specification (gABI, 2018). */

#include <elf.h>

__asm__(".globl start_with_relr\n"
        "start_with_relr:\n"
        "    push %rdx\n"
        "    push %rdx\n"
        "    lea __ehdr_start(%rip), %rdi\n"
        "    lea _DYNAMIC(%rip), %rsi\n"
        "    call relocate\n"
        "    pop %rdx\n"
        "    pop %rdx\n"
        "    jmp _start\n");

/* An even entry is the address of a word; an odd one tells by its other bits which of the 63 words behind are meant too. */
__attribute__((visibility("hidden"), used)) void relocate(Elf64_Addr base, Elf64_Dyn *entry) {
    const Elf64_Addr *next = 0, *end;
    Elf64_Xword *size = 0;
    for (; entry->d_tag != DT_NULL; entry++) {
        if (entry->d_tag == DT_RELR) next = (const Elf64_Addr *)(base + entry->d_un.d_ptr);
        if (entry->d_tag == DT_RELRSZ) size = &entry->d_un.d_val;
    }
    if (!next || !size) return;
    end = next + *size / sizeof *next;
    *size = 0;
    for (Elf64_Addr *word = 0; next < end; next++) {
        if (*next & 1) {
            Elf64_Addr *each = word;
            for (Elf64_Addr bits = *next >> 1; bits; bits >>= 1, each++)
                if (bits & 1) *each += base;
            word += 63;
        } else {
            word = (Elf64_Addr *)(base + *next);
            *word++ += base;
        }
    }
}
