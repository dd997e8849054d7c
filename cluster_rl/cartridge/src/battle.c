/* Turn battles. Party records are 44 bytes, battle records 29, big-endian words. */
#include "game.h"
#include "battle.h"

#define MOST_LEVELS 40
#define MOST_DAMAGE 999

static u8 rec[12];                     /* species: base x5, moves x2, catch, exp; move: power, accuracy, pp;
                                          trainer: class, prize x3, team of how many, (species, level) x3 */
#define PRIZE 1
#define TEAM_COUNT 4
#define TEAM 5
#define TRAINER_BYTES 11
u8 active;
static u8 foe;                         /* party index */

static u8 *mon(void) { return wPartyMons + active * 44; }

static u16 stat(u8 base, u8 level) { return (u16)base * 2 * level / 100; }

/* all points of all moves */
void refill(u8 *m) {
  u8 i, k;
  for (i = 0; i < 2; i++) {
    k = m[8 + i];
    if (k) {
      res_part(RES_MOVES, (k - 1) * 3, 3, rec);
      m[29 + i] = rec[2];
    }
  }
}

void make_mon(u8 *m, u8 species, u8 level) {
  u8 i;
  u16 hp;
  fill(m, 0, 44);
  res_part(RES_SPECIES, (species - 1) * 9, 9, rec);
  m[0] = species;
  m[3] = m[0x21] = level;
  m[7] = rec[7];
  hp = stat(rec[0], level) + level + 10;
  put_be16(m + 1, hp);
  put_be16(m + 0x22, hp);
  for (i = 0; i < 4; i++) put_be16(m + 0x24 + i * 2, stat(rec[1 + i], level) + 5);
  hp = (u16)level * level * level;
  m[15] = hp >> 8;
  m[16] = hp;
  m[8] = rec[5];
  m[9] = rec[6];
  refill(m);
}

/* party record -> battle record */
static void to_battle(u8 *b, const u8 *m, u8 index) {
  copy(b, m, 12);
  b[3] = index;
  b[12] = m[27];
  b[13] = m[28];
  b[LEVEL] = m[0x21];
  copy(b + MAXHP, m + 0x22, 10);
  copy(b + 25, m + 29, 4);
}

static void own_name(void) { copy(name_a, wPartyMonNicks + active * 11, 11); }
static void foe_name(void) { name_load(TXT_SPECIES_NAMES + E[0] - 1, name_a); }

static void sync_party(void) {
  u8 *m = mon();
  m[1] = P[1];
  m[2] = P[2];
  copy(m + 29, P + 25, 4);
}

static u8 strike(u8 *from, u8 *to, u8 move) {
  u16 d, hp;
  u8 luck;
  res_part(RES_MOVES, (move - 1) * 3, 3, rec);
  name_load(TXT_MOVE_NAMES + move - 1, name_b);
  say(TXT_USES);
  if ((rnd() & 0x7F) * 100 / 128 >= rec[1]) {
    say(TXT_MISS);
    return 0;
  }
  d = ((u16)from[LEVEL] * 2 / 5 + 2) * rec[0] / 10;
  d = d * be16(from + ATK) / be16(to + DEF) / 5 + 2;
  if (d > MOST_DAMAGE) d = MOST_DAMAGE;
  luck = 217 + (rnd() & 31);
  d = d > 264 ? d / 4 * luck / 62 : d * luck / 248;   /* 264 * 248 still fits 16 bits */
  if (!d) d = 1;
  hp = be16(to + HP);
  hp = d >= hp ? 0 : hp - d;
  put_be16(to + HP, hp);
  hud();
  frames(12);
  return hp == 0;
}

static void gain(void) {
  u8 *m = mon();
  u8 level, keep[12];
  u16 xp, n, old;
  res_part(RES_SPECIES, (E[0] - 1) * 9, 9, rec);
  n = (u16)rec[8] * E[LEVEL] / 7;
  if (wIsInBattle == 2) n += n >> 1;
  own_name();
  number_text(name_b, n);
  say(TXT_EXP);
  xp = be16(m + 15) + n;
  if (xp < n) xp = 0xFFFF;
  put_be16(m + 15, xp);
  level = m[0x21];
  while (level < MOST_LEVELS && xp >= (u16)(level + 1) * (level + 1) * (level + 1)) {
    old = be16(m + 0x22);
    n = be16(m + 1);
    copy(keep, m + 29, 4);
    level++;
    make_mon(m, m[0], level);
    put_be16(m + 15, xp);
    copy(m + 29, keep, 4);
    put_be16(m + 1, n + be16(m + 0x22) - old);
    to_battle(P, m, active);
    hud();
    own_name();
    number_text(name_b, level);
    say(TXT_LEVEL);
  }
}

u8 team_alive(void) {
  for (active = 0; active < wPartyCount; active++)
    if (be16(mon() + 1)) return 1;
  return 0;
}

static void send(void) {
  to_battle(P, mon(), active);
  wPlayerMonNumber = active;
  wPlayerMoveListIndex = 0;
}

static void send_foe(void) {
  u8 i = wEnemyPartySpecies[foe] - 1;
  to_battle(E, wEnemyMons + foe * 44, foe);
  wCurEnemyLevel = E[LEVEL];
  wPokedexSeen[i >> 3] |= 1 << (i & 7);
}

static void set_up(u8 trainer) {
  u8 i, n = 1, team[6];
  team[0] = wCurOpponent;
  team[1] = wCurEnemyLevel;
  if (trainer) {
    res_part(RES_TRAINERS, (trainer - 1) * TRAINER_BYTES, TRAINER_BYTES, rec);
    wTrainerClass = rec[0];
    wTrainerNo = trainer;
    wCurOpponent = 200 + rec[0];
    n = rec[TEAM_COUNT];
    copy(team, rec + TEAM, 6);
  }
  wEnemyPartyCount = n;
  for (i = 0; i < n; i++) {
    wEnemyPartySpecies[i] = team[i * 2];
    make_mon(wEnemyMons + i * 44, team[i * 2], team[i * 2 + 1]);
  }
  wEnemyPartySpecies[n] = 0xFF;
  foe = 0;
}

static void trainer_name(u8 trainer) { name_load(TXT_TRAINER_NAMES + trainer - 1, name_a); }

/* One of the team instead of who fights; 0 where nobody changed places. */
static u8 change(void) {
  u8 k;
  sync_party();
  copy(wTileMapBackup, wTileMap, 360);
  k = team_menu();
  copy(wTileMap, wTileMapBackup, 360);
  if (k == NOTHING) return 0;
  copy(name_a, wPartyMonNicks + k * 11, 11);
  if (k == active) {
    say(TXT_FIGHTING);
    return 0;
  }
  if (!be16(wPartyMons + k * 44 + 1)) {
    say(TXT_TIRED);
    return 0;
  }
  active = k;
  send();
  pictures();
  hud();
  own_name();
  say(TXT_GO);
  return 1;
}

u8 battle(u8 trainer) {
  u8 move, foe_move, first, won = 0, i;
  if (!team_alive()) return 0;
  set_up(trainer);
  send_foe();
  send();
  wIsInBattle = trainer ? 2 : 1;
  wBattleResult = 0;
  wEscapedFromBattle = 0;
  wBattleAndStartSavedMenuItem = 0;
  update_sprites();
  fill(wTileMap, T_SPACE, 360);
  wFontLoaded |= 1;
  hAutoBGTransferEnabled = 1;
  frames(3);
  hWY = 0;
  pictures();
  hud();
  if (trainer) trainer_name(trainer);
  else foe_name();
  say(trainer ? TXT_TRAINER : TXT_WILD);
  own_name();
  say(TXT_GO);
  for (;;) {
    move = 0;
    switch (main_menu()) {
      case 0:
        move = move_menu();
        if (!move) continue;
        break;
      case 1:
        copy(wTileMapBackup, wTileMap, 360);
        i = list_menu(LIST_BAG);
        copy(wTileMap, wTileMapBackup, 360);
        if (i == NOTHING) continue;
        sync_party();
        wWhichSlot = i;
        wCurItem = wBagItems[i * 2];
        i = use_on(active);
        to_battle(P, mon(), active);
        hud();
        if (!i) continue;
        break;
      case 2:
        if (!change()) continue;
        break;
      default:
        if (trainer) {
          say(TXT_NORUN);
          continue;
        }
        if (rnd() < 192) {
          wEscapedFromBattle = 1;
          wBattleResult = 2;
          say(TXT_RAN);
          won = 1;
          goto end;
        }
        say(TXT_STUCK);
    }
    foe_move = E[8];
    if (E[9] && (rnd() & 1)) foe_move = E[9];
    first = be16(P + SPD) >= be16(E + SPD);
    for (i = 0; i < 2; i++) {
      if (i != first) {                /* own turn when i == 0 and first, or i == 1 and not first */
        if (!move) continue;
        own_name();
        if (strike(P, E, move)) {
          foe_name();
          say(TXT_FOE_DOWN);
          sync_party();
          gain();
          if (++foe < wEnemyPartyCount) {
            send_foe();
            pictures();
            hud();
            foe_name();
            say(TXT_SENDS);
            break;
          }
          won = 1;
          if (trainer) {
            res_part(RES_TRAINERS, (trainer - 1) * TRAINER_BYTES, TRAINER_BYTES, rec);
            bcd_text(name_b, rec + PRIZE);
            bcd_add(wPlayerMoney, rec + PRIZE);
            say(TXT_PRIZE);
          }
          goto end;
        }
      } else {
        foe_name();
        if (strike(E, P, foe_move)) {
          own_name();
          sync_party();
          say(TXT_OWN_DOWN);
          if (!team_alive()) {
            wBattleResult = 1;
            wIsInBattle = 0xFF;
            goto end;
          }
          send();
          pictures();
          hud();
          own_name();
          say(TXT_GO);
          break;
        }
      }
    }
    sync_party();
  }
end:
  if (won) {
    sync_party();
    wIsInBattle = 0;
  }
  wCurOpponent = 0;
  return won;
}
