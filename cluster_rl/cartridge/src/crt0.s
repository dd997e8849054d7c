; Start-up, VBlank interrupt and the few routines that must sit in bank 0.
; Everything here lives below 0x0500; compiled C follows at 0x0500.
        .module crt0
        .globl  _main, _fc_dst, _fc_len, _view_src, _view_skip, _meta_page, _noise_at, _undrawn, _idle_frames

rP1     = 0x00
rIF     = 0x0F
rSCY    = 0x42
rSCX    = 0x43
rWY     = 0x4A
hSCX    = 0xAE
hSCY    = 0xAF
hWY     = 0xB0
hBANK   = 0xB8
hAUTO   = 0xBA
hPORTION = 0xBB
hREDRAW = 0xD0
hRNDLO  = 0xD3
hRNDHI  = 0xD4
hFRAMES = 0xD5
hVBLANK = 0xD6
hINPUT  = 0xF8
TILEMAP = 0xC3A0
SRCTILES = 0xCBFC

        .area   _HEADER (ABS)
        .org    0x0000          ; rst vectors: any stray rst restarts
        jp      start
        .org    0x0038
        jp      start
        .org    0x0040          ; VBlank
        jp      vblank
        .org    0x0048
        reti
        .org    0x0050
        reti
        .org    0x0058
        reti
        .org    0x0060
        reti
        .org    0x0100          ; entry; 0x104-0x14F (logo area, title, sizes,
        nop                     ; checksums) is written by the build
        jp      start

        .org    0x0150
start:
        di
        ld      sp, #0xDFFF
        xor     a
        ldh     (rIF), a
1$:     ldh     a, (0x44)       ; LCD off only inside VBlank
        cp      #0x91
        jr      NZ, 1$
        xor     a
        ldh     (0x40), a       ; LCDC
        ld      hl, #0xC000     ; clear WRAM
        ld      bc, #0x1F80
        call    zero
        ld      hl, #0x8000     ; clear VRAM
        ld      bc, #0x2000
        call    zero
        ld      hl, #0xFE00     ; clear OAM
        ld      bc, #0x00A0
        call    zero
        ld      hl, #0xFF80     ; clear HRAM
        ld      bc, #0x007F
        call    zero
        ld      hl, #dma_code   ; OAM DMA routine into HRAM
        ld      c, #0x80
        ld      b, #(dma_end - dma_code)
2$:     ld      a, (hl+)
        ldh     (c), a
        inc     c
        dec     b
        jr      NZ, 2$
        ld      a, #1
        ldh     (hBANK), a
        ld      (0x2000), a
        ldh     (0xFF), a       ; IE = VBlank only
        ei
        call    _main
3$:     halt
        nop
        jr      3$

zero:   xor     a
        ld      (hl+), a
        dec     bc
        ld      a, b
        or      a, c
        jr      NZ, zero
        ret

dma_code:
        ld      a, #0xC3        ; shadow OAM at C300
        ldh     (0x46), a
        ld      a, #0x28
4$:     dec     a
        jr      NZ, 4$
        ret
dma_end:

; void vsync(void): sleep until the next VBlank was served.
_vsync::
        ld      a, #1
        ldh     (hVBLANK), a
5$:     halt
        nop
        ldh     a, (hVBLANK)
        or      a, a
        jr      NZ, 5$
        ret

; void far_copy(uint8_t bank, const uint8_t *src): fc_len bytes to fc_dst.
; SDCC 4.2.0 passes (byte, word) as a and DE; its manual says bc.
_far_copy::
        ldh     (hBANK), a
        ld      (0x2000), a
        push    de
        ld      hl, #_fc_len
        ld      a, (hl+)
        ld      b, (hl)
        ld      c, a
        ld      hl, #_fc_dst
        ld      a, (hl+)
        ld      d, (hl)
        ld      e, a
        pop     hl
        ld      a, b
        or      a, c
        jr      Z, 7$
6$:     ld      a, (hl+)
        ld      (de), a
        inc     de
        dec     bc
        ld      a, b
        or      a, c
        jr      NZ, 6$
7$:     ld      a, #1
        ldh     (hBANK), a
        ld      (0x2000), a
        ret

; void build_view(void): draw the 10x9 cells from view_src into wTileMap.
; meta_page points at a 256-byte page: TL[64] TR[64] BL[64] BR[64].
        .macro  TOPCELL
        ld      a, (bc)
        inc     bc
        ld      l, a
        ld      a, (hl)
        ld      (de), a
        inc     de
        set     6, l
        ld      a, (hl)
        ld      (de), a
        inc     de
        .endm
        .macro  BOTCELL
        ld      a, (bc)
        inc     bc
        ld      l, a
        set     7, l
        ld      a, (hl)
        ld      (de), a
        inc     de
        set     6, l
        ld      a, (hl)
        ld      (de), a
        inc     de
        .endm

_build_view::
        ld      hl, #_view_src
        ld      a, (hl+)
        ld      b, (hl)
        ld      c, a
        ld      a, (_meta_page)
        ld      h, a
        ld      de, #TILEMAP
        ld      a, #9
8$:     push    af
        push    bc
        TOPCELL
        TOPCELL
        TOPCELL
        TOPCELL
        TOPCELL
        TOPCELL
        TOPCELL
        TOPCELL
        TOPCELL
        TOPCELL
        pop     bc
        BOTCELL
        BOTCELL
        BOTCELL
        BOTCELL
        BOTCELL
        BOTCELL
        BOTCELL
        BOTCELL
        BOTCELL
        BOTCELL
        ld      a, (_view_skip)
        add     a, c
        ld      c, a
        jr      NC, 9$
        inc     b
9$:     pop     af
        dec     a
        jp      NZ, 8$
        ret

; ---------------------------------------------------------------- interrupt
vblank:
        push    af
        push    bc
        push    de
        push    hl
        ldh     a, (hSCX)
        ldh     (rSCX), a
        ldh     a, (hSCY)
        ldh     (rSCY), a
        ldh     a, (hWY)
        ldh     (rWY), a
        ldh     a, (hREDRAW)
        or      a, a
        jr      Z, 14$
        ld      hl, #0xFFD1     ; BG map address of the first tile
        ld      c, (hl)
        inc     hl
        ld      h, (hl)
        ld      l, c
        ld      de, #SRCTILES
        dec     a
        jr      Z, 12$
        ld      b, #2           ; mode 2: two rows of 20 tiles
10$:    push    hl
        ld      c, #20
11$:    ld      a, (de)
        inc     de
        ld      (hl), a
        ld      a, l            ; next column, wrapping inside the 32-tile row
        inc     a
        xor     a, l
        and     a, #0x1F
        xor     a, l
        ld      l, a
        dec     c
        jr      NZ, 11$
        pop     hl
        ld      a, l
        add     a, #0x20
        ld      l, a
        jr      NC, 20$
        inc     h
20$:    dec     b
        jr      NZ, 10$
        jr      13$
12$:    ld      b, #18          ; mode 1: two columns of 18 tiles
21$:    ld      a, (de)
        inc     de
        ld      (hl+), a
        ld      a, (de)
        inc     de
        ld      (hl), a
        dec     l
        ld      a, l
        add     a, #0x20
        ld      l, a
        jr      NC, 22$
        inc     h
        ld      a, h            ; wrap 9C00 -> 9800
        and     a, #0xFB
        ld      h, a
22$:    dec     b
        jr      NZ, 21$
13$:    xor     a
        ldh     (hREDRAW), a
14$:    call    0xFF80          ; OAM DMA
        ldh     a, (hAUTO)
        or      a, a
        jp      Z, 27$
        ldh     a, (hPORTION)   ; one third of wTileMap to the window map
        ld      hl, #TILEMAP
        ld      de, #0x9C00
        or      a, a
        jr      Z, 15$
        ld      hl, #(TILEMAP + 120)
        ld      de, #0x9CC0
        dec     a
        jr      Z, 15$
        ld      hl, #(TILEMAP + 240)
        ld      de, #0x9D80
15$:    ldh     a, (hPORTION)
        inc     a
        cp      a, #3
        jr      C, 16$
        xor     a
16$:    ldh     (hPORTION), a
        ld      b, #6
        .macro  FOURTILES
        ld      a, (hl+)
        ld      (de), a
        inc     e
        ld      a, (hl+)
        ld      (de), a
        inc     e
        ld      a, (hl+)
        ld      (de), a
        inc     e
        ld      a, (hl+)
        ld      (de), a
        inc     e
        .endm
17$:    FOURTILES
        FOURTILES
        FOURTILES
        FOURTILES
        FOURTILES
        ld      a, e
        add     a, #12
        ld      e, a
        jr      NC, 19$
        inc     d
19$:    dec     b
        jr      NZ, 17$
        jr      18$
27$:    ld      hl, #_noise_at  ; 16 random bytes to the tile that flickers, every 4 frames;
        ld      a, (hl+)        ; under texts it stands still, as there is no time for both
        ld      h, (hl)
        ld      l, a
        ld      a, h
        or      a, a
        jr      Z, 18$
        ld      a, (0xDA45)
        and     a, #3
        jr      NZ, 18$
        ldh     a, (hRNDLO)
        ld      b, a
        ldh     a, (hRNDHI)
        ld      c, #16
28$:    add     a, b
        rrca
        xor     a, c
        inc     b
        ld      (hl+), a
        dec     c
        jr      NZ, 28$
18$:    ld      a, #0x20        ; d-pad
        ldh     (rP1), a
        ldh     a, (rP1)
        ldh     a, (rP1)
        cpl
        and     a, #0x0F
        swap    a
        ld      b, a
        ld      a, #0x10        ; buttons
        ldh     (rP1), a
        ldh     a, (rP1)
        ldh     a, (rP1)
        ldh     a, (rP1)
        ldh     a, (rP1)
        cpl
        and     a, #0x0F
        or      a, b
        ldh     (hINPUT), a
        ld      b, a            ; frames without a button, until the first one draws the secrets
        ld      a, (_undrawn)
        dec     a
        or      a, b
        jr      NZ, 29$
        ld      hl, #_idle_frames
        inc     (hl)
        jr      NZ, 29$
        inc     hl
        inc     (hl)
29$:    ld      a, #0x30
        ldh     (rP1), a
        ldh     a, (hRNDHI)     ; one step of a 16-bit Galois LFSR per frame
        ld      b, a
        ldh     a, (hRNDLO)
        srl     b
        rra
        jr      NC, 23$
        ld      c, a
        ld      a, b
        xor     a, #0xB4
        ld      b, a
        ld      a, c
23$:    ldh     (hRNDLO), a
        ld      c, a
        ld      a, b
        ldh     (hRNDHI), a
        or      a, c
        jr      NZ, 24$
        inc     a               ; an all-zero seed would stick
        ldh     (hRNDLO), a
24$:    xor     a
        ldh     (hVBLANK), a
        ld      hl, #0xFFD5
        ld      a, (hl)
        or      a, a
        jr      Z, 25$
        dec     (hl)
25$:    ld      hl, #0xDA45     ; play time: frames, seconds, minutes, hours
        inc     (hl)
        ld      a, (hl)
        cp      a, #60
        jr      C, 26$
        ld      (hl), #0
        dec     hl
        inc     (hl)
        ld      a, (hl)
        cp      a, #60
        jr      C, 26$
        ld      (hl), #0
        dec     hl
        inc     (hl)
        ld      a, (hl)
        cp      a, #60
        jr      C, 26$
        ld      (hl), #0
        dec     hl
        dec     hl
        inc     (hl)
26$:    pop     hl
        pop     de
        pop     bc
        pop     af
        reti

        .area   _HOME
        .area   _CODE
        .area   _INITIALIZER
        .area   _GSINIT
        .area   _GSFINAL
        .area   _DATA
        .area   _BSS
        .area   _INITIALIZED
        .area   _HEAP
