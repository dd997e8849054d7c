/* Walking about, what happens on the way, and how a game begins. */
#include "game.h"

u8 in_school;
static u8 rest_x, rest_y;              /* where the player wakes up, on wLastBlackoutMap */

void heal_party(void) {
  u8 i;
  u8 *m = wPartyMons;
  for (i = 0; i < wPartyCount; i++) {
    m[1] = m[0x22];
    m[2] = m[0x23];
    m[4] = 0;
    refill(m);
    m += 44;
  }
}

u8 add_friend(u8 species, u8 level) {
  u8 n = wPartyCount, i = species - 1, bit = 1 << (i & 7);
  if (n == 6) return 0;
  wPartyCount++;
  wPartySpecies[n] = species;
  wPartySpecies[n + 1] = 0xFF;
  make_mon(wPartyMons + n * 44, species, level);
  res_load(TXT_SPECIES_NAMES + i, wPartyMonNicks + n * 11);
  copy(wPartyMonOT + n * 11, wPlayerName, 11);
  i >>= 3;
  wPokedexOwned[i] |= bit;
  wPokedexSeen[i] |= bit;
  return 1;
}

void rest_here(void) {
  wLastBlackoutMap = wCurMap;
  rest_x = wXCoord;
  rest_y = wYCoord;
}

static void blackout(void) {
  u8 m = wPlayerMoney[1] >> 1;         /* half of the hundreds and thousands are lost, in binary-coded decimal */
  if ((m & 0x0F) > 7) m -= 3;
  wPlayerMoney[1] = m;
  say(TXT_BLACKOUT);
  heal_party();
  wFontLoaded &= ~1;
  wTextBoxID = 0;
  hAutoBGTransferEnabled = 0;
  wIsInBattle = 0;
  wXCoord = rest_x;
  wYCoord = rest_y;
  SPR1(0, 9) = 0;
  load_map(wLastBlackoutMap, 0xFF);
}

u8 fight(u8 trainer) {
  u8 won = battle(trainer);
  if (!won) {
    blackout();
    return 0;
  }
  redraw_map();
  return 1;
}

static void interact(void) {
  u8 x = wXCoord, y = wYCoord, face = SPR1(0, 9), i;
  if (face == 0) y++;
  else if (face == 4) y--;
  else if (face == 8) x--;
  else x++;
  for (i = 0; i < wNumSigns; i++)
    if (wSignCoords[i * 2] == y && wSignCoords[i * 2 + 1] == x) {
      run_script(script_base + wSignTextIDs[i]);
      return;
    }
  i = object_at(x, y);
  if (i) {
    SPR1(i, 9) = face ^ 4;             /* 0 down, 4 up, 8 left, 12 right: turn to the player */
    update_sprites();
    run_script(script_base + OBJ_TEXT[(i - 1) * 2]);
  }
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
      run_script(script_base + spots[i + 2]);
      return;
    }
  if (wGrassRate && *AT(8, 9) == GRASS_TILE && rnd() < wGrassRate && team_alive()) {
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
    if (enter_script != NOTHING) {
      h = enter_script;
      enter_script = NOTHING;
      run_script(script_base + h);
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
    face = h & PAD_DOWN ? 0 : h & PAD_UP ? 4 : h & PAD_LEFT ? 8 : 12;
    aim(face);
    if (SPR1(0, 9) != face && wPlayerLastStopDirection) {
      wPlayerLastStopDirection = 0;    /* a turn costs one loop, as in the real game */
      SPR1(0, 9) = face;
      update_sprites();
      continue;
    }
    step(face);
  }
}

void new_game(void) {
  u8 i;
  copy(wPlayerName, start_name, 11);
  wOptions = 1;
  wPartySpecies[0] = 0xFF;
#if START_SPECIES
  add_friend(START_SPECIES, START_LEVEL);
#endif
  wBagItems[0] = 0xFF;
  for (i = 0; start_bag[i]; i += 2) bag_add(start_bag[i], start_bag[i + 1]);
  for (i = 0; hidden_at_first[i] != NOTHING; i++)
    wMissableObjectFlags[hidden_at_first[i] >> 3] |= 1 << (hidden_at_first[i] & 7);
  wPlayerMoney[0] = START_MONEY >> 16;
  wPlayerMoney[1] = (START_MONEY >> 8) & 0xFF;
  wPlayerMoney[2] = START_MONEY & 0xFF;
  wLastBlackoutMap = START_MAP;
  wXCoord = rest_x = START_X;
  wYCoord = rest_y = START_Y;
  load_map(START_MAP, 0xFF);
}

#if SCHOOLS
/* A lesson instead of the game: what comes before it is done unseen, then the player stands where it begins. */
void school(u8 n) {
  u8 place[7];                         /* map, y, x, facing, script, whether somebody speaks at once */
  u16 script;
  res_part(RES_SCHOOLS, (u16)n * 7, 7, place);
  script = place[4] | ((u16)place[5] << 8);
  if (script != 0xFFFF) {
    in_school = 1;
    run_script(script);
    in_school = 0;
  }
  wYCoord = place[1];
  wXCoord = place[2];
  SPR1(0, 9) = place[3];
  load_map(place[0], 0xFF);
  while (hJoyInput) vsync();           /* the keys that chose it are not for the lesson */
  if (place[6]) interact();
}
#endif
