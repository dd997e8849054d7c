/* Maps, walking, objects, scripts, the START menu. */
#include "game.h"

#define SCRIPT_BUF ((u8 *)0xC670)      /* 120 bytes, free in this game */
#define SPR1(i, f) wSpriteStateData1[(i) * 16 + (f)]
#define SPR2(i, f) wSpriteStateData2[(i) * 16 + (f)]
#define OBJ_TEXT ((u8 *)0xD4E5)        /* wMapSpriteData: (movement, text id) pairs */
#define MAX_OBJ 8
#define MAX_SPOTS 4

static u8 hdr[26];
static u8 stride;
static s8 dx, dy;                      /* step vector of the walk in progress */
static u8 obj_sheet[MAX_OBJ + 1];
static u8 balm_target;
static u8 num_spots;                   /* cells with a script that runs when they are stepped on */
static u8 spots[MAX_SPOTS * 3];        /* y, x, script */
static u8 lot;                         /* what the script word `draw` drew; where no reader looks */

/* ---- sprites */
static void oam(u8 slot, u8 y, u8 x, u8 tile, u8 flip) {
  u8 *o = wShadowOAM + slot * 16;
  u8 a = flip ? tile + 1 : tile, b = flip ? tile : tile + 1;
  u8 attr = flip ? 0x20 : 0;
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
  u8 i, y, x, face, img, step = 0;
  s8 off = 0, sy, sx;
  if (wWalkCounter) off = wWalkCounter * 2;   /* pixels still to go */
  for (i = 0; i <= wNumSprites; i++) {
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
    if (wIsInBattle || ((wFontLoaded & 1) && y < 140 && x < 160 &&
        *AT(x >> 3, (y + 12) >> 3) >= 0x60)) {
      fill(wShadowOAM + i * 16, 0, 16);
      SPR1(i, 2) = 0xFF;
      continue;
    }
    face = SPR1(i, 9);
    if (obj_sheet[i] == 0) {
      img = (face == 0 ? 0 : face == 4 ? 8 : 16) + (step ? 4 : 0);
    } else {
      img = 24 + (face == 0 ? 0 : face == 4 ? 4 : 8);
    }
    SPR1(i, 2) = face + step;
    oam(i, y, x, img, face == 12);
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
  res_part(id, 0, 26, hdr);
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
  at = 26;
  n = hdr[25];
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
    res_part(id, at, 5, hdr);
    SPR1(i, 0) = hdr[2] + 1;
    SPR1(i, 9) = hdr[3];
    SPR2(i, 4) = hdr[0] + 4;
    SPR2(i, 5) = hdr[1] + 4;
    obj_sheet[i] = hdr[2];
    OBJ_TEXT[(i - 1) * 2] = hdr[4];
    at += 5;
  }
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
static void redraw_map(void) {
  lcd_off();
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

static u8 object_at(u8 x, u8 y) {
  u8 i;
  for (i = 1; i <= wNumSprites; i++)
    if (SPR2(i, 4) == y + 4 && SPR2(i, 5) == x + 4) return i;
  return 0;
}

/* lower left tile of the cell in front, read from wTileMap as the real game does */
static u8 tile_in_front(void) {
  u8 face = SPR1(0, 9);
  u8 t = face == 0 ? *AT(8, 11) : face == 4 ? *AT(8, 7) : face == 8 ? *AT(6, 9) : *AT(10, 9);
  wTileInFrontOfPlayer = t;
  return t;
}

void heal_party(void) {
  u8 i;
  u8 *m = wPartyMons;
  for (i = 0; i < wPartyCount; i++) {
    m[1] = m[0x22];
    m[2] = m[0x23];
    m[4] = 0;
    m += 44;
  }
}

static void blackout(void) {
  u8 m = wPlayerMoney[1] >> 1;         /* lose some money, crudely halved in BCD */
  if ((m & 0x0F) > 9) m -= 3;
  wPlayerMoney[1] = m;
  say(TXT_BLACKOUT);
  heal_party();
  wFontLoaded &= ~1;
  hAutoBGTransferEnabled = 0;
  wIsInBattle = 0;
  wXCoord = START_X;
  wYCoord = START_Y;
  SPR1(0, 9) = 0;
  load_map(wLastBlackoutMap, 0xFF);
}

static u8 fight(u8 trainer) {
  u8 won = battle(trainer);
  if (!won) {
    blackout();
    return 0;
  }
  redraw_map();
  return 1;
}

void bag_add(u8 item, u8 n) {
  u8 i;
  for (i = 0; i < wNumBagItems; i++)
    if (wBagItems[i * 2] == item) {
      wBagItems[i * 2 + 1] += n;
      return;
    }
  wBagItems[i * 2] = item;
  wBagItems[i * 2 + 1] = n;
  wBagItems[i * 2 + 2] = 0xFF;
  wNumBagItems++;
}

static void bag_remove(u8 index) {
  u8 i;
  if (--wBagItems[index * 2 + 1]) return;
  for (i = index * 2; i < 38; i++) wBagItems[i] = wBagItems[i + 2];
  wNumBagItems--;
}

/* ---- scripts: compiled by scripts.py, one byte code per line */
static void run_script(u8 n) {
  const u8 *p = SCRIPT_BUF;
  u16 v;
  u8 op;
  res_load(RES_SCRIPTS + n, SCRIPT_BUF);
  for (;;) {
    op = *p++;
    v = p[0] | ((u16)p[1] << 8);
    switch (op) {
      case OP_SAY:
        say(RES_TEXTS + v);
        p += 2;
        break;
      case OP_IFSET:
        if (flag_get(v)) p = SCRIPT_BUF + p[2];
        else p += 3;
        break;
      case OP_GOTO:
        p = SCRIPT_BUF + p[0];
        break;
      case OP_SET:
        flag_set(v);
        p += 2;
        break;
      case OP_BATTLE:
        if (!fight(p[0])) return;
        p++;
        break;
      case OP_BADGE:
        wObtainedBadges |= 1 << p[0];
        p++;
        break;
      case OP_GIVE:
        bag_add(p[0], p[1]);
        p += 2;
        break;
      case OP_HEAL:
        heal_party();
        break;
      case OP_DRAW:
        lot = wPlayTimeFrames & 3;     /* all four equally often, by the frame of the press before it */
        break;
      case OP_IFLOT:
        if (lot == p[0]) p = SCRIPT_BUF + p[1];
        else p += 2;
        break;
      case OP_BANNER:
        ui_open();
        for (v = 0; v < p[4]; v++) fill(AT(p[1], p[2] + v), p[0], p[3]);
        p += 5;
        break;
      default:
        if (wFontLoaded & 1) ui_close();
        return;
    }
  }
}

static void interact(void) {
  u8 x = wXCoord, y = wYCoord, face = SPR1(0, 9), i;
  if (face == 0) y++;
  else if (face == 4) y--;
  else if (face == 8) x--;
  else x++;
  for (i = 0; i < wNumSigns; i++)
    if (wSignCoords[i * 2] == y && wSignCoords[i * 2 + 1] == x) {
      run_script(wSignTextIDs[i]);
      return;
    }
  i = object_at(x, y);
  if (i) {
    SPR1(i, 9) = face ^ 4;             /* 0 down, 4 up, 8 left, 12 right: turn to the player */
    update_sprites();
    run_script(OBJ_TEXT[(i - 1) * 2]);
  }
}

/* ---- bag */
u8 use_item(void) {
  u8 *m = wPartyMons + balm_target * 44;
  u16 hp = be16(m + 1), max = be16(m + 0x22);
  copy(name_a, wPartyMonNicks + balm_target * 11, 11);
  if (hp == max || hp == 0) {
    say(TXT_NOEFFECT);
    return 0;
  }
  hp += ITEM_BALM_HEAL;
  if (hp > max) hp = max;
  put_be16(m + 1, hp);
  bag_remove(wWhichSlot);
  say(TXT_HEALED);
  return 1;
}

void bag_menu(void) {
  u8 k = list_menu();
  if (k == 0xFF) return;
  wWhichSlot = k;
  wCurItem = wBagItems[k * 2];
  balm_target = 0;
  use_item();
}

/* ---- START menu: same place, order, bounds and key mask as the real game */
static void start_menu(void) {
  u8 k, i;
  ui_open();
  wBattleAndStartSavedMenuItem = wBattleAndStartSavedMenuItem > 5 ? 0 : wBattleAndStartSavedMenuItem;
  for (;;) {
    copy(wTileMap, wTileMapBackup, 360);
    box(10, 0, 10, 14);
    for (i = 0; i < 6; i++) {
      if (i == 2) put_text(AT(12, 6), wPlayerName);
      else {
        name_load(TXT_START_ITEMS + i, name_a);
        put_text(AT(12, 2 + i * 2), name_a);
      }
    }
    update_sprites();
    wTextBoxID = BOX_MESSAGE;
    wTopMenuItemY = 2;
    wTopMenuItemX = 11;
    wMaxMenuItem = 6;                  /* the real game's quirk: the count, not the last index */
    wMenuWatchedKeys = PAD_DOWN | PAD_UP | PAD_START | PAD_B | PAD_A;
    wCurrentMenuItem = wBattleAndStartSavedMenuItem;
    wLastMenuItem = wCurrentMenuItem;
    do {
      k = menu_input(2);
      if (k & PAD_UP) {
        if (wCurrentMenuItem == 0 && wLastMenuItem == 0) wCurrentMenuItem = 5;
      } else if (k & PAD_DOWN) {
        if (wCurrentMenuItem >= 6) wCurrentMenuItem = 0;
      }
    } while (!(k & (PAD_START | PAD_B | PAD_A)));
    wBattleAndStartSavedMenuItem = wCurrentMenuItem;
    if ((k & (PAD_START | PAD_B)) || wCurrentMenuItem == 5) break;
    switch (wCurrentMenuItem) {
      case 0:
        copy(name_a, wPartyMonNicks, 11);
        number_text(name_b, be16(wPartyMons + 1));
        say(TXT_TEAM);
        break;
      case 1:
        bag_menu();
        break;
      case 2:
        say(TXT_CARD);
        break;
      case 3:
        say(TXT_SAVED);
        break;
      default:
        say(TXT_OPTIONS);
    }
  }
  ui_close();
}

/* ---- walking */
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

static void advance(void) {
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

static void arrived(void) {
  u8 i;
  const u8 *w = wWarpEntries;
  wStepCounter--;
  for (i = 0; i < wNumberOfWarps; i++) {
    if (w[0] == wYCoord && w[1] == wXCoord) {
      load_map(w[3], w[2]);
      return;
    }
    w += 4;
  }
  for (i = 0; i < num_spots * 3; i += 3)
    if (spots[i] == wYCoord && spots[i + 1] == wXCoord) {
      run_script(spots[i + 2]);
      return;
    }
  if (wGrassRate && *AT(8, 9) == GRASS_TILE && rnd() < wGrassRate) {
    i = (rnd() & 7) + (rnd() & 1);     /* 0..8 of the ten slots */
    wCurEnemyLevel = ((u8 *)0xD888)[i * 2];
    wCurOpponent = ((u8 *)0xD888)[i * 2 + 1];
    fight(0);
  }
}

/* the arrow key that the floor under the player presses, 0 on common floor */
static u8 carried(void) {
  const u8 *p = carrying_tiles;
  for (; *p != 0xFF; p += 2)
    if (*p == *AT(8, 9)) return p[1];
  return 0;
}

void overworld(void) {
  u8 h, face;
  for (;;) {
    frames(2);
    if (wWalkCounter) {
      advance();
      if (!wWalkCounter) arrived();
      continue;
    }
    h = carried();
    wJoyIgnore = h ? 0xFF : 0;
    joypad();
    if (hJoyPressed & PAD_START) {
      start_menu();
      continue;
    }
    if (hJoyPressed & PAD_A) {
      interact();
      continue;
    }
    if (!h) h = hJoyHeld;
    if (!(h & 0xF0)) {
      wPlayerMovingDirection = 0;
      continue;
    }
    dx = dy = 0;
    if (h & PAD_DOWN) { dy = 1; face = 0; wPlayerDirection = 4; }
    else if (h & PAD_UP) { dy = -1; face = 4; wPlayerDirection = 8; }
    else if (h & PAD_LEFT) { dx = -1; face = 8; wPlayerDirection = 2; }
    else { dx = 1; face = 12; wPlayerDirection = 1; }
    wPlayerMovingDirection = wPlayerDirection;
    if (SPR1(0, 9) != face && wPlayerLastStopDirection) {
      wPlayerLastStopDirection = 0;    /* a turn costs one loop, as in the real game */
      SPR1(0, 9) = face;
      update_sprites();
      continue;
    }
    SPR1(0, 9) = face;
    SPR1(0, 3) = dy;
    SPR1(0, 5) = dx;
    wPlayerLastStopDirection = wPlayerDirection;
    if (!passable(tile_in_front()) || object_at(wXCoord + dx, wYCoord + dy)) {
      update_sprites();
      continue;
    }
    wWalkCounter = 8;
    draw_view(wXCoord + dx, wYCoord + dy);
    schedule_redraw();
    advance();
  }
}

void new_game(void) {
  u8 i;
  copy(wPlayerName, start_name, 11);
  wOptions = 1;
  wPartyCount = 1;
  wPartySpecies[0] = START_SPECIES;
  wPartySpecies[1] = 0xFF;
  make_mon(wPartyMons, START_SPECIES, START_LEVEL);
  res_load(TXT_SPECIES_NAMES + START_SPECIES - 1, wPartyMonNicks);
  copy(wPartyMonOT, wPlayerName, 11);
  i = START_SPECIES - 1;
  wPokedexOwned[i >> 3] |= 1 << (i & 7);
  wPokedexSeen[i >> 3] |= 1 << (i & 7);
  wBagItems[0] = 0xFF;
  for (i = 0; start_bag[i]; i += 2) bag_add(start_bag[i], start_bag[i + 1]);
  wPlayerMoney[0] = START_MONEY >> 16;
  wPlayerMoney[1] = (START_MONEY >> 8) & 0xFF;
  wPlayerMoney[2] = START_MONEY & 0xFF;
  wLastBlackoutMap = START_MAP;
  wXCoord = START_X;
  wYCoord = START_Y;
  load_map(START_MAP, 0xFF);
}

/* A lesson instead of the game: on a map that the game itself never leads to, before someone who speaks at once. */
void school(void) {
  SPR1(0, 9) = 8;
  load_map(SCHOOL_MAP, 0);
  interact();
}
