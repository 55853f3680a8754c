# The guest that fits into a boot sector: it fills `fill` pages with data that does not compress to zero pages, then
# dirties `rate` pages at each tick of the PIT (18.2 Hz) in a working set of `set` pages, from 1 MiB upwards.
# It prints F when the memory is filled, and then a letter about every 0.9 s. guests.py writes the three numbers.
.intel_syntax noprefix
.code16
.globl _start
_start:
  jmp start
  .org 4
rate: .long 0
set:  .long 0
fill: .long 0
position:  .long 0
last: .long 0
letter:    .long 0
start:
  cli
  xor ax, ax
  mov ds, ax
  mov es, ax
  mov ss, ax
  mov sp, 0x7c00
  # "unreal mode": fs keeps the 4 GiB limit of protected mode, while the BIOS goes on serving the timer
  lgdt [gdtr]
  mov eax, cr0
  or al, 1
  mov cr0, eax
  jmp 1f
1: mov bx, 8
  mov fs, bx
  and al, 0xfe
  mov cr0, eax
  jmp 2f
2: xor bx, bx
  mov fs, bx
  mov ecx, [fill]
  mov ebx, 0x100000
  jecxz 4f
3: mov fs:[ebx], ecx
  add ebx, 4096
  dec ecx
  jnz 3b
4: mov al, 'F'
  mov dx, 0x3f8
  out dx, al
loop:
  sti
  hlt
  mov ecx, [rate]
  test ecx, ecx
  jz 7f
  mov edi, [position]
5: mov eax, edi
  shl eax, 12
  add eax, 0x100000
  inc dword ptr fs:[eax]
  inc edi
  cmp edi, [set]
  jb 6f
  xor edi, edi
6: dec ecx
  jnz 5b
  mov [position], edi
7: mov eax, [0x46c]   # the BIOS counts ticks there
  shr eax, 4
  cmp eax, [last]
  je loop
  mov [last], eax
  mov eax, [letter]
  inc eax
  cmp eax, 26
  jb 8f
  xor eax, eax
8: mov [letter], eax
  add al, 'a'
  mov dx, 0x3f8
  out dx, al
  jmp loop
.balign 8
gdt: .quad 0
  .quad 0x00cf92000000ffff
gdtr: .word 15
  .long gdt
.org 510
.word 0xaa55
