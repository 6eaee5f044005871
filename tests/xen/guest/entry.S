/* Entry of the agent guest, its trap handlers, and memory accesses that survive a fault. */
#include "mailbox.h"

    .section .text.start, "ax"
    .globl start
start:
    cld
    xor %ebp, %ebp
#ifdef PVH
    lgdt gdt_at(%rip)
    lidt trap_gates_at(%rip)
#endif
    test %edi, %edi             /* the number of this vCPU, which whoever set it up has put there */
    jnz 2f
    call agent_main
1:  jmp 1b
2:  call agent_other
    jmp 1b

/* The processor enters a handler with an error code for some vectors, rip, cs, rflags, rsp, ss on the stack; Xen puts
 * rcx and r11 in front of these. */
#ifdef PVH
#define IN_FRONT 0
#else
#define IN_FRONT 16
#endif
.macro HANDLER vector has_code
    .globl trap_\vector
trap_\vector:
    movq $\vector, fault_vector(%rip)
.if \has_code
    mov IN_FRONT(%rsp), %rcx
    mov IN_FRONT+8(%rsp), %r11
.else
    xor %ecx, %ecx
    mov IN_FRONT(%rsp), %r11
.endif
    mov %rcx, fault_code(%rip)
    mov %r11, fault_rip(%rip)
    jmp recover
.endm
    HANDLER 0 0
    HANDLER 3 0
    HANDLER 6 0
    HANDLER 13 1
    HANDLER 14 1

/* Back to whoever expected the fault; a fault that nobody expected ends the guest. */
recover:
    mov resume_rip(%rip), %rcx
    jrcxz 1f
    mov resume_rsp(%rip), %rsp
    movq $0, resume_rip(%rip)
    mov $-1, %rax
    jmp *%rcx
1:  call agent_give_up
2:  jmp 2b

/* uint64_t guarded_read(uint64_t address); uint64_t guarded_write(uint64_t address, uint64_t value) */
    .globl guarded_read
guarded_read:
    call expect
    mov (%rdi), %rax
    movq $0, resume_rip(%rip)
    ret
    .globl guarded_write
guarded_write:
    call expect
    mov %rsi, (%rdi)
    movq $0, resume_rip(%rip)
    xor %eax, %eax
    ret

/* A fault from here on returns to the caller of the guarded access. */
expect:
    lea 8(%rsp), %rax
    mov %rax, resume_rsp(%rip)
    lea 1f(%rip), %rax
    mov %rax, resume_rip(%rip)
    ret
1:  mov $-1, %rax
    ret

    .data
    .balign 8
    .globl fault_vector, fault_code, fault_rip
fault_vector: .quad -1
fault_code:   .quad 0
fault_rip:    .quad 0
resume_rip:   .quad 0
resume_rsp:   .quad 0
#ifdef PVH
    .globl trap_gates
gdt:          .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_at:       .word 23
              .quad gdt
trap_gates_at: .word 15 * 16 - 1
              .quad trap_gates
#endif
