"""Words that mean the same in documents of an office: price and fee, and of four languages, price, Preis, prix and precio.

`concepts_of` gives what a word may mean, `CONTRASTS` which of these exclude one another: what is said of daily snapshots is not
said of hourly ones. The list is short and written by hand, and a word that is not in it has its own meaning only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

# name: English · German · French · Spanish. A star stands for any letters: gebühr* is the beginning of Gebührenordnung, *gebühr
# the end of Parkgebühr.
_CONCEPTS = """
price: price* cost costs costing fee fees charge charges charged tariff* fare fares rate rates expensive · preis* *preis
    *preise kost* *kosten *gebühr *gebühren gebühr* teuer tarif* entgelt* · prix coût* coûte* tarif* · precio* coste* cuesta*
    costo tarifa*
pay: pay pays paid payment* payable · zahl* bezahl* · paie payer paye paiement* · pagar paga pago* pagan
salary: salar* wage wages · gehalt* lohn* · salaire* · sueldo* salario*
bill: bill bills invoice* · rechnung* · facture* · factura*
deposit: deposit deposits · kaution* anzahlung* pfand · caution acompte · fianza* depósito*
refund: refund* reimburse* · erstatt* rückerstatt* · rembours* · reembols* devolv* devuelv*
discount: discount* reduction* rebate* · rabatt* ermäßig* · réduction* remise* · descuento*
fine: fine fines penalt* · bußgeld* strafe* · amende* · multa multas
tax: tax taxes vat · steuer* mehrwertsteuer · taxe taxes tva · impuesto* iva
insurance: insur* · versicher* · assur* · seguro seguros asegur*
budget: budget* · haushaltsmittel · budget* · presupuesto*
quotation: quotation* quote quotes offer offers · angebot* · devis · presupuesto* oferta*
tender: tender tenders · ausschreib* · appel · licitación*
phone: phone* telephone* dial call calls called extension hotline · telefon* *telefon rufnummer* durchwahl anruf* anrufen ·
    téléphon* appeler · teléfono* llamar llame
mail: mail e-mail email mails · mail e-mail email · courriel* mél · correo*
address: address addresses · adresse* anschrift* · adresse* · dirección*
open: open opens opened opening · öffn* geöffnet* offen öffnungs* · ouvert* ouvr* · abre abren abiert* apertura*
close: close closes closed closing shut shuts closure* · schließ* geschloss* schluss · ferm* · cierra* cerrad* cierre*
hours: hours · öffnungszeit* sprechzeit* · horaire* heures · horario* horas
staff: staff employee* worker* workforce work works working personnel colleague* · mitarbeiter* beschäftigte* personal
    angestellte* · employé* personnel salarié* · emplead* personal trabajador*
head: head heads runs manager* manages managed director* leads led leader* chief boss charge responsible lead warden
    supervisor foreman curator* · leiter* leitet leitung* chef* verantwortlich* zuständig* wirt *wirt · chef* responsable* dirige
    directeur directrice gardien* gardé* · jefe jefa responsable* director* encargad* dirige
owner: owner owners owns owned own belongs holder · besitz* eigentüm* gehört inhaber* · propriétaire* · propietari* dueño*
customer: customer* client clients · kunde* kunden · client* · client*
guest: guest guests visitor* · gast gäste* besucher* · visiteur* · huésped* visitante*
supplier: supplier* vendor* contractor* · lieferant* auftragnehmer* · fournisseur* · proveedor*
resident: resident* inhabitant* · anwohner* einwohner* bewohner* · habitant* riverain* résident* · vecin* habitante*
    residente*
member: member members · mitglied* · membre* adhérent* · socio socios miembro*
group: group groups party · gruppe* · groupe* · grupo*
adult: adult adults · erwachsen* · adulte* · adulto*
child: child children kid kids · kind kinder* · enfant* · niño* niña* menor*
pupil: pupil* student* · schüler* student* · élève* étudiant* · alumn* estudiante*
pensioner: pensioner* senior seniors retired retiree* · rentner* senioren seniorin* · retraité* senior* · jubilad* pensionista*
couple: couple couples · paar paare ehepaar* · couple couples · pareja parejas
family: family families · familie* · famille* · familia*
apprentice: apprentice* trainee* · lehrling* auszubild* azubi* · apprenti* · aprendi*
leave: leave holiday holidays vacation* · urlaub* ferien · congé* vacances · vacaciones permiso
sick: sick* ill illness* · krank* · malad* · enferm*
wedding: wedding* marr* · hochzeit* heirat* · mariage* · boda* matrimonio*
birth: birth births born · geburt* geboren · naissance* né née · nacimiento*
death: death* die dies died dead · tod todes* gestorben · décès mort* · muerte* fallec*
start: start* begin* began begun commence* · beginn* anfang* startet · début* commence* · empieza* comienz* inicio*
end: end ends ended finish* expire* expiry · ende endet enden ablauf* · fin finit termine* expire* · fin termina* acaba*
keep: keep keeps kept retain* retention store stored stay stays hold held preserv* · aufbewahr* gespeichert behalten
    aufgehoben · conserv* gard* · conserva* guarda*
delete: delet* remov* erase* purge* · lösch* entfern* · supprim* efface* · borra* elimin*
restore: restor* recover* · wiederherstell* · restaur* rétabl* · restaur* recuper*
replace: replac* exchang* swap* renew* chang* · ersetz* *wechsel *wechselt austausch* erneuer* · remplac* chang* renouvel* ·
    reemplaz* cambi* sustitu*
repair: repair* fix fixes fixed mend* · reparatur* reparier* · répar* · repar*
maintain: maintain* maintenance upkeep servic* · wart* · entretien maintenance · mantenimiento
build: build builds built construct* erected · gebaut bau erbaut errichtet · construit* bâti* · construid* construy*
buy: buy buys bought purchas* acquir* procur* · kauf* gekauft einkauf* beschaff* · achat* achet* · compra*
sell: sell sells sold sale sales · verkauf* · vend* vente* · vende* venta*
rent: rent rents rented rental* hire hires hired lend lends lent borrow* loan* lease* · miete* mieten leih* verleih* ausleih*
    · louer location* prêt* emprunt* · alquil* préstamo*
return: return* bring · rückgabe* zurück* · retour* rend* · devol* devuel*
cancel: cancel* · storn* abgesagt absag* kündig* · annul* · cancel* anul*
book: book booked booking* bookings reserv* · buch* gebucht reservier* *buchung · réserv* · reserv*
enrol: enrol* register registers registered registration sign · anmeld* einschreib* · inscri* · inscri*
request: request* apply applies applied application* ask asks asked · antrag* beantrag* · demand* · solicit*
approve: approv* consent* authoris* authoriz* permission* · genehmig* zustimm* bewillig* · approuv* autoris* · aproba*
    autoriz*
lose: lose loses lost loss · verlor* verlust* · perdu* perte* · perdid* pérdida* pierde*
allow: allow* permitted may · erlaubt* gestattet zulässig · permis* autorisé* · permit*
forbid: forbid* forbidden prohibit* banned · verboten verbot* untersagt · interdit* défendu* · prohib*
compulsory: compulsory mandatory obligatory required · pflicht *pflicht erforderlich vorgeschrieben · obligatoire* ·
    obligatori*
capacity: capacity capacities volume hold holds · kapazität* fassungs* volumen fasst · capacité* contient · capacidad*
length: length* long longer · länge* lang · longueur* long · longitud* largo
width: width* wide · breite* breit · largeur* large · ancho anchura*
height: height* high altitude* elevation tall · höhe* hoch · altitude* hauteur* · altura* altitud*
metre: metre* m m³ m3 · meter metern · mètre* · metro metros
cubic: cubic m³ m3 · kubikmeter* · cube* · cúbico*
litre: litre* liter* l · liter* · litre* · litro*
depth: depth* deep · tief* tiefe* · profond* · profund*
weight: weight* weigh* heavy · gewicht* wieg* schwer · poids pèse* · peso pesa
temperature: temperature* hot warm degree degrees · temperatur* heiß · température* · temperatur*
pressure: pressure* · druck *druck · pression* · presión*
power: electric* power mains · strom* elektri* · électri* courant · electric* corriente
water: water · wasser* *wasser · eau eaux · agua
fuel: fuel* petrol diesel tank · kraftstoff* benzin diesel · carburant* essence · combustible* gasolina
vehicle: vehicle* car cars automobile* · fahrzeug* auto autos wagen · véhicule* voiture* · vehículo* coche*
parking: park parking parked · park parken parkplatz* parkgebühr* parkordnung* parkschein* parkt ·
    stationn* parking · aparca* estacion*
bus: bus buses shuttle coach · bus busse · bus navette · autobús*
train: train trains railway* station · zug züge bahn bahnhof* · train* gare · tren trenes estación
bicycle: bicycl* bike bikes · fahrrad* rad räder · vélo* · bicicleta*
bed: bed beds berth · bett betten · lit lits · cama camas
room: room rooms · zimmer raum räume · chambre* salle* · habitación* sala
building: building* house · gebäude* haus · bâtiment* maison · edificio* casa
key: key keys · schlüssel* · clé clés clef* · llave*
ticket: ticket tickets admission entry entrance · ticket fahrkarte* eintritt* karte *karte *schein · billet* entrée* ticket
    abonnement* · entrada* billete*
permit: permit permits licence* license* pass · ausweis* *ausweis genehmigung* erlaubnis* · permis autorisation* · permiso*
    licencia*
season: season seasonal · saison* · saison* abonnement* · temporada*
subscription: subscription* · abo abonnement* · abonnement* · abono* suscripción*
card: card cards · karte *karte ausweis* *ausweis · carte* · tarjeta* carné*
dog: dog dogs pet pets · hund hunde* haustier* · chien* · perro*
breakfast: breakfast* · frühstück* · petit-déjeuner déjeuner · desayuno*
lunch: lunch* · mittagessen · déjeuner · almuerzo comida
dinner: dinner* supper · abendessen · dîner · cena
smoke: smok* · rauch* · fum* · fum*
alcohol: alcohol* · alkohol* · alcool* · alcohol*
night: night nights overnight · nacht nächte* übernacht* · nuit nuits nuitée* · noche noches
year: year years yearly annual* · jahr jahre* jährlich · an ans année* annuel* · año años anual*
monthly: month months monthly · monat* · mois mensuel* · mes meses mensual*
weekly: week weeks weekly · woche* wöchentlich · semaine* hebdomadaire* · semana* semanal*
daily: day days daily · tag tage tages* täglich · jour* quotidien* · día días diari*
hourly: hour hourly h hr hrs · stunde* stündlich std · heure horaire · hora
glass: glass · glas altglas · verre · vidrio
paper: paper · papier altpapier · papier · papel
waste: waste rubbish garbage trash refuse · abfall* müll* · déchet* ordures · residuo* basura*
container: bin bins container* · behälter* tonne tonnen *tonne mülltonne* · poubelle* bac bacs conteneur* · contenedor* cubo*
collect: collect* pick · abhol* abgeholt leerung* · collect* ramass* · recog* recoge* recogida*
furniture: furniture · möbel* · meuble* · mueble*
cause: cause caused causes reason reasons why because · ursache* grund* weil wegen · cause* raison* · causa* motivo* razón*
accident: accident* incident* · unfall* vorfall* störung* · accident* incident* · accidente* incidente*
damage: damage* injur* hurt · schaden* schäden verletz* · dommage* dégât* bless* · daño* herid*
rule: rule rules regulation* policy polic* · regel* ordnung *ordnung vorschrift* richtlinie* · règle* règlement* · regla*
    norma* reglamento*
limit: limit* maximum most · höchst* maximal* grenze* grenzwert* · maxim* limite* · máxim* límite*
least: minimum least · mindest* minimal* · minim* · mínim*
notice: notice · frist *frist kündigungsfrist · préavis délai* · preaviso plazo*
deadline: deadline* due · frist *frist stichtag · délai* échéance · plazo* vencimiento
appeal: appeal* objection* object · einspruch* widerspruch* · recours réclamation* · recurso* reclamación*
allowance: allowance* diem · tagegeld* verpflegungs* pauschale* *pauschale · indemnité* · dieta dietas
travel: travel* trip trips journey* · reise* *reise *reisen fahrt fahrten · voyage* déplacement* · viaje*
domestic: domestic inland · inland* · national* · nacional*
abroad: abroad foreign international* · ausland* · étranger* · extranjero*
hotel: hotel* accommodation · hotel* unterkunft* übernachtung* · hôtel* hébergement* · hotel* alojamiento*
receipt: receipt* voucher* · beleg* quittung* · reçu* justificatif* · recibo*
kilometre: kilomet* mile mileage · kilometer* · kilomètre* · kilómetro*
form: form forms · formular* · formulaire* · formulario*
contract: contract* agreement* · vertrag* *vertrag · contrat* · contrato*
warranty: warrant* guarantee* · garantie* gewährleist* · garantie* · garantía*
delivery: deliver* ship shipped shipping · liefer* versand* · livr* · entreg* envío*
school: school* · schule* · école* · escuela*
library: librar* · bibliothek* bücherei* · bibliothèque* · biblioteca*
pool: pool swim* · schwimm* *bad · piscine* bassin* · piscina*
town: town city municipal council · stadt* gemeinde* rathaus · ville municipal* mairie · ciudad municipal* ayuntamiento
market: market · markt* *markt · marché · mercado
square: square · platz *platz · place · plaza
warehouse: warehouse* storeroom depot store stores · lager* · entrepôt* magasin* dépôt · almacén*
equipment: equipment gear material · ausrüst* gerät* material* · équipement* matériel* · material* equip*
hut: hut huts refuge cabin lodge · hütte* *hütte · refuge* cabane* · refugio* cabaña*
bath: bathing cap · badekappe* · bonnet · gorro
company: company firm companies · firma firmen unternehmen · entreprise* société* · empresa*
department: department* · abteilung* · service département* · departamento*
team: team crew · team mannschaft · équipe* · equipo*
meeting: meet* session* · sitzung* tagt besprech* · réunion* · reunión*
training: training* course* lesson* · schulung* kurs* lehrgang* · formation* cours · curso* formación*
password: password* passphrase · passwort* kennwort* · mot-de-passe · contraseña*
light: light lights lamp* · licht* lampe* · lumière* · luz luces
storey: floor floors storey* · stock stockwerk etage* geschoss* · étage* · piso planta
monday: monday* · montag* · lundi* · lunes
tuesday: tuesday* · dienstag* · mardi* · martes
wednesday: wednesday* · mittwoch* · mercredi* · miércoles
thursday: thursday* · donnerstag* · jeudi* · jueves
friday: friday* · freitag* · vendredi* · viernes
saturday: saturday* · samstag* sonnabend* · samedi* · sábado*
sunday: sunday* · sonntag* · dimanche* · domingo*
spring: springtime · frühling frühjahr* · printemps · primavera
summer: summer* · sommer* · été · verano
autumn: autumn* fall · herbst* · automne · otoño
winter: winter* · winter* · hiver* · invierno
morning: morning* · morgens vormittag* · matin* · mañana*
evening: evening* · abend abends · soir* · tarde
"""

CONTRASTS = tuple(
    frozenset(group.split())
    for group in (
        "hourly daily weekly monthly year",
        "monday tuesday wednesday thursday friday saturday sunday",
        "spring summer autumn winter",
        "morning evening",
        "adult child pupil apprentice pensioner couple family",
        "breakfast lunch dinner",
        "domestic abroad",
        "phone mail",
        "upper lower",
        "north south east west",
        "minimum maximum",
        "internal external",
        "gross net",
        "primary secondary",
        "first second third fourth fifth",
        "outward back",
        "arrival departure",
        "read write",
        "upload download",
        "production staging",
        "single return",
        "mother father",
        "men women",
        "beginner advanced",
        "start stop",
    )
)
"""Meanings and words of which a statement has one: what is said of one is not said of the others."""

_ADJECTIVES = {
    form: word
    for word, forms in {
        "hourly": "hourly stündlich stündliche stündlichen",
        "daily": "daily täglich tägliche täglichen quotidien quotidienne diario diaria",
        "weekly": "weekly wöchentlich wöchentliche wöchentlichen hebdomadaire semanal",
        "monthly": "monthly monatlich monatliche monatlichen mensuel mensuelle mensual",
        "year": "yearly annual annually jährlich jährliche jährlichen annuel annuelle anual",
        "first": "first 1st erste ersten erster erstes premier première primer primera",
        "second": "second 2nd zweite zweiten zweiter zweites deuxième segundo segunda",
        "third": "third 3rd dritte dritten dritter drittes troisième tercer tercero tercera",
        "fourth": "fourth 4th vierte vierten vierter viertes quatrième cuarto cuarta",
        "fifth": "fifth 5th fünfte fünften fünfter fünftes cinquième quinto quinta",
        "north": "north northern nord nördlich nördliche nördlichen norte",
        "south": "south southern süd südlich südliche südlichen sud sur",
        "east": "east eastern ost östlich östliche östlichen est este",
        "west": "west western westlich westliche westlichen ouest oeste",
        "upper": "upper obere oberen oberer oberes supérieur supérieure superior",
        "lower": "lower untere unteren unterer unteres inférieur inférieure inferior",
        "minimum": "minimum minimal lowest",
        "maximum": "maximum maximal highest",
        "start": "start starts started begin begins began beginnt startet",
        "stop": "stop stops stopped ends ended finish finishes finished endet",
        "beginner": "beginner beginners anfänger débutant débutants principiantes",
        "advanced": "advanced fortgeschrittene fortgeschrittenen avancé avanzado",
    }.items()
    for form in forms.split()
}
# Meanings that contrast only as these words: "a day" and "a week" are units, "daily" and "weekly" tell one thing from another.
_ONLY_ADJECTIVES = frozenset(_ADJECTIVES.values())


def _plain(word: str) -> str:
    """A word without accents, in small letters."""
    return "".join(c for c in unicodedata.normalize("NFKD", word.casefold()) if not unicodedata.combining(c))


def _listed() -> Iterator[tuple[str, str]]:
    for line in re.sub(r"\n\s+", " ", _CONCEPTS.strip()).splitlines():
        name, _, words = line.partition(":")
        for word in words.split():
            if word != "·":
                yield name, _plain(word)


def _by_form() -> tuple[dict[str, set[str]], dict[str, set[str]], dict[str, set[str]]]:
    exact: dict[str, set[str]] = {}
    beginning: dict[str, set[str]] = {}
    ending: dict[str, set[str]] = {}
    for name, word in _listed():
        form = beginning if word.endswith("*") else ending if word.startswith("*") else exact
        form.setdefault(word.strip("*"), set()).add(name)
    return exact, beginning, ending


_EXACT, _BEGINNING, _ENDING = _by_form()
_LONGEST = 40  # letters of a word


@lru_cache(maxsize=16384)
def concepts_of(word: str) -> frozenset[str]:
    """What a word may mean, by the names of the list; nothing if it is not in it."""
    plain = _plain(word[:_LONGEST])
    found = set(_EXACT.get(plain, ()))
    for size in range(2, len(plain) + 1):
        found |= _BEGINNING.get(plain[:size], set())
        found |= _ENDING.get(plain[-size:], set())
    return frozenset(found)


@lru_cache(maxsize=16384)
def contrasting(word: str) -> frozenset[str]:
    """The members of `CONTRASTS` that a word is."""
    low = word.casefold()
    adjective = _ADJECTIVES.get(low)
    means = {adjective} if adjective else set(concepts_of(low) - _ONLY_ADJECTIVES) | {low} - _ONLY_ADJECTIVES
    return frozenset(means & _MEMBERS)


_MEMBERS = frozenset[str]().union(*CONTRASTS)


def contrasts(asked: frozenset[str], there: frozenset[str], own: frozenset[str]) -> bool:
    """Whether a text is about a contrast of what is asked.

    `asked`, `there` and `own` are words of the question, of a text with all that is around it, and of the text alone: the
    question says "daily", the text only "hourly".
    """
    wanted = {member for word in asked for member in contrasting(word)}
    if not wanted:
        return False
    around = {member for word in there for member in contrasting(word)}
    said = {member for word in own for member in contrasting(word)}
    return any(bool(group & wanted) and not group & wanted & around and bool((group & said) - wanted) for group in CONTRASTS)
