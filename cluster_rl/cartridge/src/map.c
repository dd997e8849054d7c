/* Maps, who stands on them, and steps over them. */
#include "game.h"

#define MAX_OBJ 9
#define MAP_DARK 1
#define MAP_FLICKERS 2

u16 script_base;
u8 enter_script;
u8 num_spots, spots[24];
s8 dx, dy;
static u8 hdr[30];
static u8 stride;
static u8 obj_sheet[MAX_OBJ + 1], obj_flag[MAX_OBJ + 1];

/* ---- sprites */
static void oam(u8 slot, u8 y, u8 x, u8 tile, u8 attr) {
  u8 *o = wShadowOAM + slot * 16;
  u8 a = tile, b = tile + 1;
  if (attr & 0x20) {                   /* mirrored */
    a++;
    b--;
  }
  o[0] = o[4] = y + 16;
  o[8] = o[12] = y + 24;
  o[1] = o[9] = x + 8;
  o[5] = o[13] = x + 16;
  o[2] = a;
  o[6] = b;
  o[10] = a + 2;
  o[14] = b + 2;
  o[3] = o[7] = o[11] = o[15] = attr;
}

void update_sprites(void) {
  u8 i, y, x, face, img, under, step = 0;
  s8 off = 0, sy, sx;
  if (wWalkCounter) off = wWalkCounter * 2;   /* pixels still to go */
  for (i = 0; i <= wNumSprites; i++) {
    if (i && !SPR1(i, 0)) {            /* gone, or not there yet */
      fill(wShadowOAM + i * 16, 0, 16);
      SPR1(i, 2) = 0xFF;
      continue;
    }
    if (i == 0) {
      y = 60;
      x = 64;
      step = (wWalkCounter > 2 && wWalkCounter < 7);
    } else {
      sy = SPR2(i, 4) - 4 - wYCoord;
      sx = SPR2(i, 5) - 4 - wXCoord;
      step = 0;
      if (sy < -5 || sy > 5 || sx < -5 || sx > 6) {
        fill(wShadowOAM + i * 16, 0, 16);
        SPR1(i, 2) = 0xFF;
        continue;
      }
      y = 60 + sy * 16;
      x = 64 + sx * 16;
      if (wWalkCounter) {
        y -= dy * (16 - off);
        x -= dx * (16 - off);
      }
    }
    SPR1(i, 4) = y;
    SPR1(i, 6) = x;
    under = y < 140 && x < 160 ? *AT(x >> 3, (y + 12) >> 3) : 0;
    if (wIsInBattle || ((wFontLoaded & 1) && under >= 0x60 && (i || under != T_BLACK))) {
      fill(wShadowOAM + i * 16, 0, 16);
      SPR1(i, 2) = 0xFF;
      continue;
    }
    face = SPR1(i, 9);
    if (obj_sheet[i] == 0) {
      img = (face == 0 ? 0 : face == 4 ? 8 : 16) + (step ? 4 : 0);
    } else {
      img = 12 + obj_sheet[i] * 12 + (face == 0 ? 0 : face == 4 ? 4 : 8);
    }
    SPR1(i, 2) = face + step;
    oam(i, y, x, img, (face == 12 ? 0x20 : 0) | (i && wMapPalOffset ? 0x10 : 0));
  }
}

/* Who can vanish is there or not as the flags say. */
void show_objects(void) {
  u8 i, n;
  for (i = 1; i <= wNumSprites; i++) {
    n = obj_flag[i];
    SPR1(i, 0) = n != NOTHING && wMissableObjectFlags[n >> 3] & (1 << (n & 7)) ? 0 : obj_sheet[i] + 1;
  }
}

/* ---- maps */
static const u8 *cell_ptr(u8 x, u8 y) { return wOverworldMap + (u16)(y + 4) * stride + x + 4; }

static void draw_view(u8 x, u8 y) {
  view_src = cell_ptr(x, y) - 4 - (u16)4 * stride;
  build_view();
}

static void tileset_load(void) {
  res_load(RES_TILES, (u8 *)0x9000);
}

static void vram_view(void) {
  u8 r;
  u8 *d = (u8 *)0x9800;
  const u8 *s = wTileMap;
  for (r = 0; r < 18; r++) {
    copy(d, s, 20);
    d += 32;
    s += 20;
  }
}

void load_map(u8 map, u8 warp) {
  u16 id, at;
  u8 i, n, w, h;
  u8 *p;
  wJoyIgnore = 0xFF;
  lcd_off();
  for (i = 0; map_ids[i] != map; i++)
    ;
  id = RES_MAPS + i;
  if (wCurMap < 37) wLastMap = wCurMap;
  wCurMap = map;
  wDestinationWarpID = warp;
  res_part(id, 0, 30, hdr);
  w = hdr[0];
  h = hdr[1];
  wCurMapWidth = w >> 1;
  wCurMapHeight = h >> 1;
  wCurMapTileset = hdr[2];
  wGrassRate = hdr[4];
  copy((u8 *)0xD888, hdr + 5, 20);
  wTilesetCollisionPtr[0] = (u16)passable_tiles;
  wTilesetCollisionPtr[1] = (u16)passable_tiles >> 8;
  wGrassTile = GRASS_TILE;
  if (!(hdr[25] & MAP_DARK)) lit = 0;
  wMapPalOffset = hdr[25] & MAP_DARK && !lit ? 6 : 0;
  noise_at = hdr[25] & MAP_FLICKERS ? 0x9000 + STATIC_TILE * 16 : 0;
  script_base = hdr[26] | ((u16)hdr[27] << 8);
  enter_script = hdr[28];
  at = 30;
  n = hdr[29];
  wNumberOfWarps = n;
  res_part(id, at, n * 4, wWarpEntries);
  at += n * 4;
  res_part(id, at++, 1, hdr);
  wNumSigns = n = hdr[0];
  for (i = 0; i < n; i++) {
    res_part(id, at, 3, hdr);
    wSignCoords[i * 2] = hdr[0];
    wSignCoords[i * 2 + 1] = hdr[1];
    wSignTextIDs[i] = hdr[2];
    at += 3;
  }
  res_part(id, at++, 1, hdr);
  wNumSprites = n = hdr[0];
  fill(wShadowOAM, 0, 160);
  fill(wSpriteStateData1 + 16, 0, 240);
  fill(wSpriteStateData2 + 16, 0, 240);
  for (i = 1; i <= n; i++) {
    res_part(id, at, 6, hdr);
    SPR1(i, 9) = hdr[3];
    SPR2(i, 4) = hdr[0] + 4;
    SPR2(i, 5) = hdr[1] + 4;
    obj_sheet[i] = hdr[2];
    OBJ_TEXT[(i - 1) * 2] = hdr[4];
    obj_flag[i] = hdr[5];
    at += 6;
  }
  show_objects();
  res_part(id, at++, 1, hdr);
  num_spots = n = hdr[0];
  res_part(id, at, n * 3, spots);
  at += n * 3;
  res_part(id, 3, 1, hdr);              /* border cell */
  stride = w + 9;
  view_skip = stride - 10;
  fill(wOverworldMap, hdr[0], (u16)stride * (h + 8));
  p = (u8 *)cell_ptr(0, 0);
  for (i = 0; i < h; i++) {
    res_part(id, at, w, p);
    at += w;
    p += stride;
  }
  if (warp != 0xFF) {
    wYCoord = wWarpEntries[warp * 4];
    wXCoord = wWarpEntries[warp * 4 + 1];
  }
  wYBlockCoord = wYCoord & 1;
  wXBlockCoord = wXCoord & 1;
  wWalkCounter = 0;
  SPR1(0, 0) = 1;
  SPR2(0, 4) = wYCoord + 4;
  SPR2(0, 5) = wXCoord + 4;
  meta_page = META_PAGE;
  palette();
  draw_view(wXCoord, wYCoord);
  tileset_load();
  vram_view();
  hSCX = 0;
  hSCY = 0;
  hWY = 144;
  update_sprites();
  lcd_on();
  vsync();
  wJoyIgnore = 0;
}

/* the whole picture again, after a battle */
void redraw_map(void) {
  lcd_off();
  palette();
  tileset_load();
  draw_view(wXCoord, wYCoord);
  vram_view();
  hSCX = 0;
  hSCY = 0;
  hWY = 144;
  hAutoBGTransferEnabled = 0;
  wFontLoaded &= ~1;
  wTextBoxID = 0;
  update_sprites();
  lcd_on();
  vsync();
}

static u8 passable(u8 tile) {
  const u8 *p = passable_tiles;
  for (; *p != 0xFF; p++)
    if (*p == tile) return 1;
  return 0;
}

u8 object_at(u8 x, u8 y) {
  u8 i;
  for (i = 1; i <= wNumSprites; i++)
    if (SPR1(i, 0) && SPR2(i, 4) == y + 4 && SPR2(i, 5) == x + 4) return i;
  return 0;
}

/* lower left tile of the cell in front, read from wTileMap as the real game does */
static u8 tile_in_front(void) {
  u8 face = SPR1(0, 9);
  u8 t = face == 0 ? *AT(8, 11) : face == 4 ? *AT(8, 7) : face == 8 ? *AT(6, 9) : *AT(10, 9);
  wTileInFrontOfPlayer = t;
  return t;
}

/* ---- steps */
static void schedule_redraw(void) {
  u8 col = ((u8)(hSCX >> 3) + dx * 2) & 31, row = ((u8)(hSCY >> 3) + dy * 2) & 31;
  u8 i;
  u8 *d = wRedrawRowOrColumnSrcTiles;
  const u8 *s;
  u16 addr;
  if (dy) {
    if (dy > 0) {
      row = (row + 16) & 31;
      s = AT(0, 16);
    } else s = wTileMap;
    copy(d, s, 40);
  } else {
    s = dx > 0 ? AT(18, 0) : wTileMap;
    for (i = 0; i < 18; i++) {
      *d++ = s[0];
      *d++ = s[1];
      s += 20;
    }
    if (dx > 0) col = (col + 18) & 31;
  }
  addr = 0x9800 + (u16)row * 32 + col;
  hRedrawRowOrColumnDest[0] = addr;
  hRedrawRowOrColumnDest[1] = addr >> 8;
  hRedrawRowOrColumnMode = dy ? 2 : 1;
}

void advance(void) {
  hSCX += dx * 2;
  hSCY += dy * 2;
  if (--wWalkCounter == 0) {
    wXCoord += dx;
    wYCoord += dy;
    wYBlockCoord = wYCoord & 1;
    wXBlockCoord = wXCoord & 1;
    SPR2(0, 4) = wYCoord + 4;
    SPR2(0, 5) = wXCoord + 4;
  }
  update_sprites();
}

/* Sets the step vector, not the way the player looks. */
void aim(u8 face) {
  dx = face == 8 ? -1 : face == 12 ? 1 : 0;
  dy = face == 0 ? 1 : face == 4 ? -1 : 0;
  wPlayerDirection = face == 0 ? 4 : face == 4 ? 8 : face == 8 ? 2 : 1;
  wPlayerMovingDirection = wPlayerDirection;
}

/* Begins the step that `aim` was called for, the first of its eight parts; 0 where something is in the way. */
u8 step(u8 face) {
  SPR1(0, 9) = face;
  SPR1(0, 3) = dy;
  SPR1(0, 5) = dx;
  wPlayerLastStopDirection = wPlayerDirection;
  if (!passable(tile_in_front()) || object_at(wXCoord + dx, wYCoord + dy)) {
    update_sprites();
    return 0;
  }
  wWalkCounter = 8;
  draw_view(wXCoord + dx, wYCoord + dy);
  schedule_redraw();
  advance();
  return 1;
}
